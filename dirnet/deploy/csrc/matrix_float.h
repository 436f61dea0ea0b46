// y = M^T x of float matrices, dense or in blocks, for one frame or a tile of F interleaved ones.
#pragma once

#include "vec.h"
#include "walk.h"

namespace dirnet {
namespace {

// What the sums of a column begin with in frame f: at[f * pitch], or 0 without one.
struct Start {
  const float* at;
  int pitch;
  Start from(int column) const { return {at ? at + column : nullptr, pitch}; }
  const float* of(int f) const { return at + f * pitch; }
};

// One column block of W columns for F frames: y[f][0..W) = start[f][0..W) + sum_k x[row(k)][f] * values[k][0..W).
// x is interleaved by frames. `chains` independent sums hide the latency of the multiply-add.
template <int W, int F, class Row>
inline void column_block(const float* x, const float* values, Row row, int count, Start start, float* y, int pitch) {
  constexpr int chains = F == 1 ? 4 : 1;
  if constexpr (W == 1 && F == 1) {
    float sum[4] = {};
    int k = 0;
    for (; k + 4 <= count; k += 4)
      for (int i = 0; i < 4; ++i) sum[i] += x[row(k + i)] * values[k + i];
    for (; k < count; ++k) sum[0] += x[row(k)] * values[k];
    *y = (sum[0] + sum[1]) + (sum[2] + sum[3]) + (start.at ? *start.at : 0.0f);
  } else if constexpr (W == 1) {  // vectors run along the frames
    Floats<F> sum[4] = {};
    int k = 0;
    for (; k + 4 <= count; k += 4)
      for (int i = 0; i < 4; ++i) sum[i] += load<Floats<F>>(x + row(k + i) * F) * values[k + i];
    for (; k < count; ++k) sum[0] += load<Floats<F>>(x + row(k) * F) * values[k];
    const Floats<F> total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    for (int f = 0; f < F; ++f) y[f * pitch] = total[f] + (start.at ? *start.of(f) : 0.0f);
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
      if (start.at) total += load<Floats<W>>(start.of(f));
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
    column_block<W, F>(x, values + static_cast<size_t>(first) * rows, row, rows, Start{bias, 0}.from(first), y + first,
                       columns);
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

// Run by run: y is what the sums of the next one begin with.
template <int W, int F>
inline void sparse_blocks(const Matrix& m, const float* x, float* y) {
  const float* values = static_cast<const float*>(m.codes);
  const uint8_t* index = m.index;
  Start start = {m.bias, 0};
  for (int run = 0; run < m.runs(); ++run, x += kRun * F, start = {y, m.columns})
    block_columns<W>(m, run, [&](int count, int first) {
      const auto row = [index](int k) { return static_cast<int>(index[k]); };
      column_block<W, F>(x, values, row, count, start.from(first), y + first, m.columns);
      index += count;
      values += count * W;
    });
}

template <int F>
inline const float* interleaved(const float* x, int rows, float* to) {
  if (F == 1) return x;
  for (int k = 0; k < rows; ++k)
    for (int f = 0; f < F; ++f) to[k * F + f] = x[f * rows + k];
  return to;
}

}  // namespace
}  // namespace dirnet
