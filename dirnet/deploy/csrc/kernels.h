// The arithmetic of a compressed recurrent layer: u = D^T h, gates = Z^T u, and the cell. No framework, one thread.
//
// Every matrix is stored in the order in which it is read, so nothing is repacked at load and a .pte may stay mapped:
//   block == 0  dense (rows, columns): panels of 16 columns, the rest in panels of 8, 4, 2, 1; a panel holds its rows one
//               after the other.
//   block >= 1  sparse codes: one uint16 count per block column, then block by block the row (uint8 where rows <= 256,
//               else uint16) and `block` consecutive values.
// Vectors are GCC/Clang vector types: 16 floats are one AVX-512, two AVX or four NEON registers.
#pragma once

#include <cstdint>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // all is inlined here, no vector crosses an ABI
#endif

namespace dirnet {

enum Cell { kLstm = 0, kGru = 1, kRnn = 2 };
constexpr int kGates[] = {4, 3, 1};
constexpr int kTile = 4;  // frames that share one pass over the weights

struct Matrix {
  int rows = 0, columns = 0;  // y (columns) = M^T x (rows)
  int block = 0;
  const float* values = nullptr;
  const uint8_t* index8 = nullptr;
  const uint16_t* index16 = nullptr;
  const uint16_t* counts = nullptr;
};

template <int W>
struct VectorOf {
  typedef float type __attribute__((vector_size(W * sizeof(float))));
};
template <>
struct VectorOf<1> {
  typedef float type;
};
template <int W>
using Vector = typename VectorOf<W>::type;

template <int W>
inline Vector<W> load(const float* from) {
  Vector<W> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

// One column block of W columns for F frames: y[f][0..W) = bias + sum_k x[row(k)][f] * values[k][0..W).
// x is interleaved by frames. `Chains` independent sums hide the latency of the multiply-add.
template <int W, int F, class Row>
inline void column_block(const float* x, const float* values, Row row, int count, const float* bias, float* y, int pitch) {
  constexpr int chains = F == 1 ? 4 : 1;
  if constexpr (W == 1) {  // vectors run along the frames
    Vector<F> sum[4] = {};
    int k = 0;
    for (; k + 4 <= count; k += 4)
      for (int i = 0; i < 4; ++i) sum[i] += load<F>(x + row(k + i) * F) * values[k + i];
    for (; k < count; ++k) sum[0] += load<F>(x + row(k) * F) * values[k];
    const Vector<F> total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    float out[F];
    __builtin_memcpy(out, &total, sizeof out);
    for (int f = 0; f < F; ++f) y[f * pitch] = out[f] + (bias ? bias[0] : 0.0f);
  } else {
    Vector<W> sum[F][chains] = {};
    int k = 0;
    for (; k + chains <= count; k += chains)
      for (int i = 0; i < chains; ++i) {
        const Vector<W> w = load<W>(values + (k + i) * W);
        const float* at = x + row(k + i) * F;
        for (int f = 0; f < F; ++f) sum[f][i] += w * at[f];
      }
    for (; k < count; ++k) {
      const Vector<W> w = load<W>(values + k * W);
      const float* at = x + row(k) * F;
      for (int f = 0; f < F; ++f) sum[f][0] += w * at[f];
    }
    for (int f = 0; f < F; ++f) {
      Vector<W> total = sum[f][0];
      for (int i = 1; i < chains; ++i) total += sum[f][i];
      if (bias) total += load<W>(bias);
      __builtin_memcpy(y + f * pitch, &total, sizeof total);
    }
  }
}

// Dense panels of W columns from column `first` on; returns the first column left over.
template <int W, int F>
inline int dense_panels(const Matrix& m, int first, const float* x, const float* bias, float* y) {
  const auto row = [](int k) { return k; };
  for (; first + W <= m.columns; first += W)
    column_block<W, F>(x, m.values + first * m.rows, row, m.rows, bias ? bias + first : nullptr, y + first, m.columns);
  return first;
}

template <int W, int F, class Index>
inline void sparse_blocks(const Matrix& m, const Index* index, const float* x, const float* bias, float* y) {
  const float* values = m.values;
  for (int j = 0; j < m.columns / W; ++j) {
    const int count = m.counts[j];
    const auto row = [index](int k) { return static_cast<int>(index[k]); };
    column_block<W, F>(x, values, row, count, bias ? bias + j * W : nullptr, y + j * W, m.columns);
    index += count;
    values += count * W;
  }
}

template <int F, class Index>
inline void sparse(const Matrix& m, const Index* index, const float* x, const float* bias, float* y) {
  switch (m.block) {
    case 1: return sparse_blocks<1, F>(m, index, x, bias, y);
    case 2: return sparse_blocks<2, F>(m, index, x, bias, y);
    case 4: return sparse_blocks<4, F>(m, index, x, bias, y);
    case 8: return sparse_blocks<8, F>(m, index, x, bias, y);
    default: return sparse_blocks<16, F>(m, index, x, bias, y);
  }
}

template <int F>
inline void multiply_tile(const Matrix& m, const float* x, const float* bias, float* y) {
  if (m.block == 0) {
    int first = dense_panels<16, F>(m, 0, x, bias, y);
    first = dense_panels<8, F>(m, first, x, bias, y);
    first = dense_panels<4, F>(m, first, x, bias, y);
    first = dense_panels<2, F>(m, first, x, bias, y);
    dense_panels<1, F>(m, first, x, bias, y);
  } else if (m.index8) {
    sparse<F>(m, m.index8, x, bias, y);
  } else {
    sparse<F>(m, m.index16, x, bias, y);
  }
}

// y (frames, columns) = x (frames, rows) M + bias (may be null). `scratch` holds rows * kTile floats.
inline void multiply(const Matrix& m, const float* x, int frames, const float* bias, float* y, float* scratch) {
  for (; frames >= kTile; frames -= kTile, x += kTile * m.rows, y += kTile * m.columns) {
    for (int k = 0; k < m.rows; ++k)
      for (int f = 0; f < kTile; ++f) scratch[k * kTile + f] = x[f * m.rows + k];
    multiply_tile<kTile>(m, scratch, bias, y);
  }
  for (; frames > 0; --frames, x += m.rows, y += m.columns) multiply_tile<1>(m, x, bias, y);
}

// tanh as a ratio of polynomials of degree 13 and 6 (the coefficients are Eigen's): error below 3e-7, NaN stays NaN.
inline float fast_tanh(float x) {
  constexpr float limit = 7.90531110763549805f;
  x = x < -limit ? -limit : x;
  x = x > limit ? limit : x;
  const float s = x * x;
  float p = -2.76076847742355e-16f * s + 2.00018790482477e-13f;
  p = p * s - 8.60467152213735e-11f;
  p = p * s + 5.12229709037114e-08f;
  p = p * s + 1.48572235717979e-05f;
  p = p * s + 6.37261928875436e-04f;
  p = p * s + 4.89352455891786e-03f;
  float q = 1.19825839466702e-06f * s + 1.18534705686654e-04f;
  q = q * s + 2.26843463243900e-03f;
  q = q * s + 4.89352518554385e-03f;
  return x * p / q;
}

inline float fast_sigmoid(float x) { return 0.5f * fast_tanh(0.5f * x) + 0.5f; }

// One step of the cell from the two halves of its gate pre-activations (biases included), gates in torch's order.
// h (n) is written; memory (n) is c of an LSTM, else the last h.
inline void cell_step(Cell cell, int n, const float* __restrict x, const float* __restrict r, float* __restrict h,
                      float* __restrict memory) {
  switch (cell) {
    case kLstm:
#pragma omp simd
      for (int i = 0; i < n; ++i) {
        const float input = fast_sigmoid(x[i] + r[i]);
        const float forget = fast_sigmoid(x[n + i] + r[n + i]);
        const float cand = fast_tanh(x[2 * n + i] + r[2 * n + i]);
        const float output = fast_sigmoid(x[3 * n + i] + r[3 * n + i]);
        memory[i] = forget * memory[i] + input * cand;
        h[i] = output * fast_tanh(memory[i]);
      }
      break;
    case kGru:
#pragma omp simd
      for (int i = 0; i < n; ++i) {
        const float reset = fast_sigmoid(x[i] + r[i]);
        const float update = fast_sigmoid(x[n + i] + r[n + i]);
        const float cand = fast_tanh(x[2 * n + i] + reset * r[2 * n + i]);
        memory[i] = h[i] = cand + update * (memory[i] - cand);
      }
      break;
    case kRnn:
#pragma omp simd
      for (int i = 0; i < n; ++i) memory[i] = h[i] = fast_tanh(x[i] + r[i]);
      break;
  }
}

// The recurrence over `frames` frames. `gates` (frames, G*n) is the input half of the pre-activations. `u` is what the
// codes read, D^T h, or h itself where `dictionary` is null; both `u` and `memory` come in and go out.
// y[t] is u_t if `coded`, for a consumer that shares the dictionary (one D^T h serves both), else h_t.
// `scratch` holds (G + 1) * n floats.
inline void rnn_layer(Cell cell, const Matrix* dictionary, const Matrix& codes, const float* gates, int frames, int n,
                      const float* bias, bool coded, float* u, float* memory, float* y, float* scratch) {
  const int width = kGates[cell] * n;
  float* recurrent = scratch;
  float* h = dictionary ? scratch + width : u;
  for (int t = 0; t < frames; ++t) {
    multiply(codes, u, 1, bias, recurrent, nullptr);
    cell_step(cell, n, gates + t * width, recurrent, h, memory);
    if (dictionary) multiply(*dictionary, h, 1, nullptr, u, nullptr);
    const float* out = coded ? u : h;
    const int out_size = coded ? codes.rows : n;
    for (int i = 0; i < out_size; ++i) y[t * out_size + i] = out[i];
  }
}

// Normalised, spliced windows: y[t] = the 2 * context + 1 frames around frame t * stride of (x - mean) * istd.
// x (frames * stride + 2 * context, size) brings its own context.
inline void splice(const float* x, const float* mean, const float* istd, int frames, int size, int context, int stride,
                   float* y) {
  const int window = 2 * context + 1;
  for (int t = 0; t < frames; ++t)
    for (int k = 0; k < window; ++k)
      for (int i = 0; i < size; ++i)
        *y++ = (x[(t * stride + k) * size + i] - mean[i]) * istd[i];
}

}  // namespace dirnet
