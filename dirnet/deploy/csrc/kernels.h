// The arithmetic of a compressed recurrent layer: u = D^T x, gates = Z^T u, and the cell. No framework, one thread.
//
// A file that includes this names an instruction set by the vec_*.h that it includes first, and is compiled for it:
// kLanes, kByteZero, dot4, dot, expand of int8 come from there, floats are the compiler's own vectors. layer.h tells
// how matrices lie in memory.
#pragma once

#include "layer.h"
#include "vec.h"

namespace dirnet {
namespace {

constexpr int kTile = 4;  // frames that share one pass over the weights of an input matrix
constexpr int kChunk =
    16;  // frames whose gates wait for the recurrence at a time: more would push weights out of cache
constexpr int kTable = 256, kSlack = 64;

// Scratch memory, handed out in aligned pieces.
class Scratch {
 public:
  explicit Scratch(void* memory) : next_(static_cast<char*>(memory)) {}
  template <class T>
  T* take(size_t count) {
    char* start = next_;
    next_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(start);
  }

 private:
  char* next_;
};

// ---- float32 -------------------------------------------------------------------------------------------------------

// One column block of W columns for F frames: y[f][0..W) = bias + sum_k x[row(k)][f] * values[k][0..W).
// x is interleaved by frames. `chains` independent sums hide the latency of the multiply-add.
template <int W, int F, class Row>
inline void column_block(const float* x, const float* values, Row row, int count, const float* bias, float* y,
                         int pitch) {
  constexpr int chains = F == 1 ? 4 : 1;
  if constexpr (W == 1 && F == 1) {
    float sum[4] = {};
    int k = 0;
    for (; k + 4 <= count; k += 4)
      for (int i = 0; i < 4; ++i) sum[i] += x[row(k + i)] * values[k + i];
    for (; k < count; ++k) sum[0] += x[row(k)] * values[k];
    *y = (sum[0] + sum[1]) + (sum[2] + sum[3]) + (bias ? *bias : 0.0f);
  } else if constexpr (W == 1) {  // vectors run along the frames
    Floats<F> sum[4] = {};
    int k = 0;
    for (; k + 4 <= count; k += 4)
      for (int i = 0; i < 4; ++i) sum[i] += load<Floats<F>>(x + row(k + i) * F) * values[k + i];
    for (; k < count; ++k) sum[0] += load<Floats<F>>(x + row(k) * F) * values[k];
    const Floats<F> total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    for (int f = 0; f < F; ++f) y[f * pitch] = total[f] + (bias ? *bias : 0.0f);
  } else {
    Floats<W> sum[F][chains] = {};
    int k = 0;
    for (; k + chains <= count; k += chains)
      for (int i = 0; i < chains; ++i) {
        const auto w = load<Floats<W>>(values + (k + i) * W);
        const float* at = x + row(k + i) * F;
        for (int f = 0; f < F; ++f) sum[f][i] += w * at[f];
      }
    for (; k < count; ++k) {
      const auto w = load<Floats<W>>(values + k * W);
      const float* at = x + row(k) * F;
      for (int f = 0; f < F; ++f) sum[f][0] += w * at[f];
    }
    for (int f = 0; f < F; ++f) {
      Floats<W> total = sum[f][0];
      for (int i = 1; i < chains; ++i) total += sum[f][i];
      if (bias) total += load<Floats<W>>(bias);
      store(total, y + f * pitch);
    }
  }
}

// Dense panels of W columns from column `first` on; returns the first column left over.
template <int W, int F>
inline int dense_panels(const float* values, int rows, int columns, int first, const float* x, const float* bias,
                        float* y) {
  const auto row = [](int k) { return k; };
  for (; first + W <= columns; first += W)
    column_block<W, F>(x, values + static_cast<size_t>(first) * rows, row, rows, bias ? bias + first : nullptr,
                       y + first, columns);
  return first;
}

template <int F>
inline void dense(const float* values, int rows, int columns, const float* x, const float* bias, float* y) {
  int first = dense_panels<16, F>(values, rows, columns, 0, x, bias, y);
  first = dense_panels<8, F>(values, rows, columns, first, x, bias, y);
  first = dense_panels<4, F>(values, rows, columns, first, x, bias, y);
  first = dense_panels<2, F>(values, rows, columns, first, x, bias, y);
  dense_panels<1, F>(values, rows, columns, first, x, bias, y);
}

// take(count, first column) for every block column, in the order of storage.
template <int W, class Take>
inline void block_columns(const Matrix& m, Take take) {
  const uint16_t* column = m.order;
  for (int count = 0; count <= m.most; ++count)
    for (int n = m.histogram[count]; n > 0; --n) take(count, *column++ * W);
}

template <int W, int F, class Index>
inline void sparse_blocks(const Matrix& m, const Index* index, const float* x, float* y) {
  const float* values = static_cast<const float*>(m.codes);
  block_columns<W>(m, [&](int count, int first) {
    const auto row = [index](int k) { return static_cast<int>(index[k]); };
    column_block<W, F>(x, values, row, count, m.bias ? m.bias + first : nullptr, y + first, m.columns);
    index += count;
    values += count * W;
  });
}

template <int F, class Index>
inline void sparse(const Matrix& m, const Index* index, const float* x, float* y) {
  switch (m.block) {
    case 1:
      return sparse_blocks<1, F>(m, index, x, y);
    case 2:
      return sparse_blocks<2, F>(m, index, x, y);
    case 4:
      return sparse_blocks<4, F>(m, index, x, y);
    case 8:
      return sparse_blocks<8, F>(m, index, x, y);
    default:
      return sparse_blocks<16, F>(m, index, x, y);
  }
}

// y (F, columns) = Z^T u + bias, u interleaved.
template <int F>
inline void codes_tile(const Matrix& m, const float* u, float* y) {
  if (m.block == 0) return dense<F>(static_cast<const float*>(m.codes), m.code_rows(), m.columns, u, m.bias, y);
  return m.index8 ? sparse<F>(m, m.index8, u, y) : sparse<F>(m, m.index16, u, y);
}

template <int F>
inline const float* interleaved(const float* x, int rows, float* to) {
  if (F == 1) return x;
  for (int k = 0; k < rows; ++k)
    for (int f = 0; f < F; ++f) to[k * F + f] = x[f * rows + k];
  return to;
}

// ---- int8 ----------------------------------------------------------------------------------------------------------

inline float bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  return load<float>(&wide);
}

// x (n) * row_scales (may be null) as bytes round(127 x / max |x|) + kByteZero; returns the value of a step. NaN and
// infinity come back in the step: as integers they are the largest magnitudes.
inline float quantise(const float* x, const uint16_t* row_scales, int n, float* scaled, uint8_t* to) {
  if (row_scales) {
    for (int i = 0; i < n; ++i) scaled[i] = x[i] * bfloat16(row_scales[i]);
    x = scaled;
  }
  int32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (int i = 0; i < n; ++i) {
    const int32_t bits = load<int32_t>(x + i) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  const float limit = load<float>(&largest), steps = limit > 1e-30f ? 127.0f / limit : 0.0f;
#pragma omp simd
  for (int i = 0; i < n; ++i) {  // adding 1.5 * 2^23 rounds to even and leaves the integer in the low bits
    const float shifted = x[i] * steps + 12582912.0f;
    to[i] = static_cast<uint8_t>(load<int32_t>(&shifted) + kByteZero);
  }
  return limit > 1e-30f || !(limit == limit) ? limit / 127.0f : 0.0f;
}

// sums[f][0..W) = sum_k w[k] x[f][k], k < count, of a panel or block column of W >= 4 columns.
template <int W, int F>
inline void dot_block(const uint8_t* const* x, const int8_t* w, int count,
                      Ints<(W < kLanes ? W : kLanes)> (*sums)[W / 4]) {
  constexpr int lanes = W < kLanes ? W : kLanes, pieces = W / lanes, chains = F == 1 ? 2 : 1;
  static const uint8_t zero[4] = {kByteZero, kByteZero, kByteZero, kByteZero};
  Ints<lanes> sum[F][chains][pieces] = {}, offset[chains][pieces] = {};
  const int groups = count / 4;
  const auto add = [&](int g, int chain) {
    for (int piece = 0; piece < pieces; ++piece) {
      const int8_t* at = w + (g * W + piece * lanes) * 4;
      for (int f = 0; f < F; ++f) sum[f][chain][piece] = dot4(sum[f][chain][piece], at, x[f] + 4 * g);
      if (kByteZero) offset[chain][piece] = dot4(offset[chain][piece], at, zero);
    }
  };
  int g = 0;
  for (; g + chains <= groups; g += chains)
    for (int chain = 0; chain < chains; ++chain) add(g + chain, chain);
  for (; g < groups; ++g) add(g, 0);
  for (int piece = 0; piece < pieces; ++piece)
    for (int f = 0; f < F; ++f) {
      Ints<lanes> total = sum[f][0][piece] - offset[0][piece];
      for (int chain = 1; chain < chains; ++chain) total += sum[f][chain][piece] - offset[chain][piece];
      sums[f][piece] = total;
    }
  for (int k = groups * 4; k < count; ++k)
    for (int piece = 0; piece < pieces; ++piece) {
      Ints<lanes> row;
      widen(w + k * W + piece * lanes, &row);
      for (int f = 0; f < F; ++f) sums[f][piece] += row * static_cast<int8_t>(x[f][k] ^ kByteZero);
    }
}

// Where the sums of a column go: y = sum * step * D's and Z's scale of an atom (or 1) + bias (or 0).
struct Output {
  const uint16_t *atom_scales, *row_scales;
  const float* bias;
  float* y;
  int pitch;
};

template <int L>
inline Floats<L> bfloat16s(const uint16_t* from) {
  Ints<L> wide;
  widen(from, &wide);
  wide <<= 16;
  return load<Floats<L>>(&wide);
}

// Columns `first .. first + W` for F frames.
template <int W, int F>
inline void int8_columns(const uint8_t* const* x, const float* steps, const int8_t* w, int count, int first,
                         const Output& out) {
  if constexpr (W >= 4) {
    constexpr int lanes = W < kLanes ? W : kLanes;
    Ints<lanes> sums[F][W / 4];
    dot_block<W, F>(x, w, count, sums);
    for (int piece = 0; piece < W / lanes; ++piece) {
      const int column = first + piece * lanes;
      for (int f = 0; f < F; ++f) {
        Floats<lanes> y = __builtin_convertvector(sums[f][piece], Floats<lanes>) * steps[f];
        if (out.atom_scales)
          y *= bfloat16s<lanes>(out.atom_scales + column) * bfloat16s<lanes>(out.row_scales + column);
        if (out.bias) y += load<Floats<lanes>>(out.bias + column);
        store(y, out.y + f * out.pitch + column);
      }
    }
  } else {
    for (int i = 0; i < W; ++i)
      for (int f = 0; f < F; ++f) {
        const int column = first + i;
        float y = static_cast<float>(dot(w + i * count, x[f], count)) * steps[f];
        if (out.atom_scales) y *= bfloat16(out.atom_scales[column]) * bfloat16(out.row_scales[column]);
        out.y[f * out.pitch + column] = y + (out.bias ? out.bias[column] : 0.0f);
      }
  }
}

template <int F>
inline void int8_dense(const int8_t* w, int rows, int columns, const uint8_t* const* x, const float* steps,
                       const Output& out) {
  for (int first = 0, width; first < columns; first += width) {
    width = panel_width(columns - first);
    const int8_t* panel = w + static_cast<size_t>(first) * rows;
    switch (width) {
      case 16:
        int8_columns<16, F>(x, steps, panel, rows, first, out);
        break;
      case 8:
        int8_columns<8, F>(x, steps, panel, rows, first, out);
        break;
      case 4:
        int8_columns<4, F>(x, steps, panel, rows, first, out);
        break;
      case 2:
        int8_columns<2, F>(x, steps, panel, rows, first, out);
        break;
      default:
        int8_columns<1, F>(x, steps, panel, rows, first, out);
    }
  }
}

// x[f]: the bytes that the blocks read, one after the other.
template <int W, int F>
inline void int8_blocks(const Matrix& m, const uint8_t* const* x, const float* steps, const Output& out) {
  const int8_t* w = static_cast<const int8_t*>(m.codes);
  const uint8_t* at[F];
  for (int f = 0; f < F; ++f) at[f] = x[f];
  block_columns<W>(m, [&](int count, int first) {
    int8_columns<W, F>(at, steps, w, count, first, out);
    for (int f = 0; f < F; ++f) at[f] += count;
    w += count * W;
  });
}

// y (F, columns) = Z^T u + bias of u (F, code_rows).
template <int F>
inline void int8_codes(const Matrix& m, const float* u, float* y, Scratch scratch) {
  const int rows = m.code_rows();
  if (F > 1 && m.block > 0 && m.block < 4) {  // no weights to share: every code meets a byte of its own
    for (int f = 0; f < F; ++f) int8_codes<1>(m, u + f * rows, y + f * m.columns, scratch);
    return;
  }
  const uint8_t* x[F];
  float steps[F];
  float* scaled = scratch.take<float>(rows);
  const uint16_t* row_scales = m.atoms ? nullptr : m.row_scales;  // with a dictionary D^T h brings them along
  for (int f = 0; f < F; ++f) {
    auto* bytes = scratch.take<uint8_t>(rows < kTable ? kTable : rows + kSlack);
    steps[f] = quantise(u + f * rows, row_scales, rows, scaled, bytes);
    x[f] = bytes;
    if (m.block == 0) continue;
    auto* expanded = scratch.take<uint8_t>(m.blocks + kSlack);
    if (m.index8)
      expand(bytes, rows, m.index8, m.blocks, expanded);
    else
      for (int k = 0; k < m.blocks; ++k) expanded[k] = bytes[m.index16[k]];
    x[f] = expanded;
  }
  const Output out = {nullptr, nullptr, m.bias, y, m.columns};
  switch (m.block) {
    case 0:
      return int8_dense<F>(static_cast<const int8_t*>(m.codes), rows, m.columns, x, steps, out);
    case 1:
      return int8_blocks<1, F>(m, x, steps, out);
    case 2:
      return int8_blocks<2, F>(m, x, steps, out);
    case 4:
      return int8_blocks<4, F>(m, x, steps, out);
    case 8:
      return int8_blocks<8, F>(m, x, steps, out);
    default:
      return int8_blocks<16, F>(m, x, steps, out);
  }
}

// u (F, atoms) = D^T x of x (F, rows).
template <int F>
inline void int8_dictionary(const Matrix& m, const float* x, float* u, int pitch, Scratch scratch) {
  const uint8_t* bytes[F];
  float steps[F];
  for (int f = 0; f < F; ++f) {
    auto* to = scratch.take<uint8_t>(m.rows + kSlack);
    steps[f] = quantise(x + f * m.rows, nullptr, m.rows, nullptr, to);
    bytes[f] = to;
  }
  const Output out = {m.atom_scales, m.row_scales, nullptr, u, pitch};
  int8_dense<F>(static_cast<const int8_t*>(m.dictionary), m.rows, m.atoms, bytes, steps, out);
}

// ---- either --------------------------------------------------------------------------------------------------------

// u (F, atoms), one after the other, = D^T x of x (F, rows).
template <int F>
inline void dictionary_tile(const Matrix& m, const float* x, float* u, Scratch scratch) {
  if (m.quantised()) return int8_dictionary<F>(m, x, u, m.atoms, scratch);
  const float* frames = interleaved<F>(x, m.rows, scratch.take<float>(static_cast<size_t>(m.rows) * F));
  dense<F>(static_cast<const float*>(m.dictionary), m.rows, m.atoms, frames, nullptr, u);
}

template <int F>
inline void codes_of(const Matrix& m, const float* u, float* y, Scratch scratch) {
  if (m.quantised()) return int8_codes<F>(m, u, y, scratch);
  codes_tile<F>(m, interleaved<F>(u, m.code_rows(), scratch.take<float>(static_cast<size_t>(m.code_rows()) * F)), y);
}

// One function for any number of frames out of one for a tile.
template <class Tile, class One>
inline void in_tiles(int frames, Tile tile, One one) {
  int f = 0;
  for (; f + kTile <= frames; f += kTile) tile(f);
  for (; f < frames; ++f) one(f);
}

// u (frames, code_rows) = D^T x of x (frames, rows). <delta d, x> = sum_k d[k] x[k + shift]: with shifts every frame is
// read once per shift, moved the other way (0, 1, -1, 2, -2, ...: the order of dirnet.factorization.shift).
inline void read_dictionary(const Matrix& m, const float* x, int frames, float* u, Scratch scratch) {
  if (m.reach == 0) {
    in_tiles(
        frames, [&](int f) { dictionary_tile<kTile>(m, x + f * m.rows, u + f * m.atoms, scratch); },
        [&](int f) { dictionary_tile<1>(m, x + f * m.rows, u + f * m.atoms, scratch); });
    return;
  }
  const int shifts = m.shifts();
  float* moved = scratch.take<float>(static_cast<size_t>(shifts) * m.rows);
  for (int t = 0; t < frames; ++t) {
    const float* from = x + static_cast<size_t>(t) * m.rows;
    for (int s = 0; s < shifts; ++s) {
      const int shift = s % 2 ? (s + 1) / 2 : -s / 2;
      for (int k = 0; k < m.rows; ++k) {
        const int at = k + shift, wrapped = at < 0 ? at + m.rows : at >= m.rows ? at - m.rows : at;
        moved[s * m.rows + k] = at == wrapped || m.circular ? from[wrapped] : 0.0f;
      }
    }
    float* to = u + static_cast<size_t>(t) * m.code_rows();
    in_tiles(
        shifts, [&](int s) { dictionary_tile<kTile>(m, moved + s * m.rows, to + s * m.atoms, scratch); },
        [&](int s) { dictionary_tile<1>(m, moved + s * m.rows, to + s * m.atoms, scratch); });
  }
}

inline void project(const Matrix& m, const float* x, int frames, float* y, void* memory) {
  Scratch scratch(memory);
  float* read = m.atoms ? scratch.take<float>(static_cast<size_t>(kTile) * m.code_rows()) : nullptr;
  const auto tile = [&](int f, int count, auto codes) {
    const float* u = x + static_cast<size_t>(f) * m.rows;
    if (m.atoms) read_dictionary(m, u, count, read, scratch), u = read;
    codes(u, y + static_cast<size_t>(f) * m.columns);
  };
  in_tiles(
      frames, [&](int f) { tile(f, kTile, [&](const float* u, float* to) { codes_of<kTile>(m, u, to, scratch); }); },
      [&](int f) { tile(f, 1, [&](const float* u, float* to) { codes_of<1>(m, u, to, scratch); }); });
}

// tanh as a ratio of polynomials of degree 13 and 6 (the coefficients are Eigen's): error below 3e-7, NaN stays NaN.
// Kept as a ratio p / q: a cell needs two divisions instead of one per gate.
struct Ratio {
  float p, q;
};

inline Ratio tanh_ratio(float x) {
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
  return {x * p, q};
}

inline Ratio sigmoid_ratio(float x) {  // (1 + tanh(x / 2)) / 2
  const Ratio t = tanh_ratio(0.5f * x);
  return {0.5f * (t.q + t.p), t.q};
}

inline float fast_tanh(float x) {
  const Ratio t = tanh_ratio(x);
  return t.p / t.q;
}

// One step of the cell from the two halves of its gate pre-activations (biases included), gates in torch's order.
// h (n) is written; memory (n) is c of an LSTM, else the last h. Not inlined: there the compiler forgets __restrict.
[[gnu::noinline]] inline void cell_step(Cell cell, int n, const float* __restrict x, const float* __restrict r,
                                        float* __restrict h, float* __restrict memory) {
  switch (cell) {
    case kLstm:
#pragma omp simd
      for (int i = 0; i < n; ++i) {
        const Ratio in = sigmoid_ratio(x[i] + r[i]), forget = sigmoid_ratio(x[n + i] + r[n + i]);
        const Ratio cand = tanh_ratio(x[2 * n + i] + r[2 * n + i]), out = sigmoid_ratio(x[3 * n + i] + r[3 * n + i]);
        const float written = in.q * cand.q, c = forget.p * memory[i] * written + in.p * cand.p * forget.q;
        memory[i] = c / (forget.q * written);
        const Ratio shown = tanh_ratio(memory[i]);
        h[i] = out.p * shown.p / (out.q * shown.q);
      }
      break;
    case kGru:
#pragma omp simd
      for (int i = 0; i < n; ++i) {
        const Ratio reset = sigmoid_ratio(x[i] + r[i]), update = sigmoid_ratio(x[n + i] + r[n + i]);
        const Ratio cand = tanh_ratio(x[2 * n + i] + reset.p / reset.q * r[2 * n + i]);
        const float kept = update.p * memory[i] * cand.q + (update.q - update.p) * cand.p;
        memory[i] = h[i] = kept / (update.q * cand.q);
      }
      break;
    case kRnn:
#pragma omp simd
      for (int i = 0; i < n; ++i) memory[i] = h[i] = fast_tanh(x[i] + r[i]);
      break;
  }
}

inline void rnn_layer(Cell cell, const Layer& layer, const float* x, int frames, int n, bool coded, float* u,
                      float* memory, float* y, void* scratch_memory) {
  const Matrix &input = layer.input, &recurrent = layer.recurrent;
  const int width = kGates[cell] * n, out_size = coded ? recurrent.code_rows() : n;
  Scratch scratch(scratch_memory);
  float* gates = scratch.take<float>(static_cast<size_t>(kChunk) * width);
  float* returned = scratch.take<float>(width);
  float* h = recurrent.atoms ? scratch.take<float>(n) : u;
  for (int first = 0; first < frames; first += kChunk) {
    const int count = frames - first < kChunk ? frames - first : kChunk;
    project(input, x + static_cast<size_t>(first) * input.rows, count, gates, scratch.take<char>(0));
    for (int t = 0; t < count; ++t) {
      codes_of<1>(recurrent, u, returned, scratch);
      cell_step(cell, n, gates + static_cast<size_t>(t) * width, returned, h, memory);
      if (recurrent.atoms) read_dictionary(recurrent, h, 1, u, scratch);
      std::memcpy(y, coded ? u : h, out_size * sizeof(float));
      y += out_size;
    }
  }
}

}  // namespace
}  // namespace dirnet

// Ends a file: its kernels under a name of their own.
#define DIRNET_KERNELS(symbol)                               \
  namespace dirnet {                                         \
  extern const Kernels symbol;                               \
  const Kernels symbol = {kPath, parse, project, rnn_layer}; \
  }
