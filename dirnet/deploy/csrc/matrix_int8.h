// y = M^T x of int8 matrices: x rounds to bytes, a frame at a time, sums are integers, scales come last. dot4, dot,
// widen, expand and kByteZero are those of the vec_*.h included before.
#pragma once

#include "vec.h"
#include "walk.h"

namespace dirnet {
namespace {

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

// Where the sums of a column go: y = sum * step * D's and Z's scale of an atom (or 1) + start (or 0), which is
// start_pitch further for the next frame.
struct Output {
  const uint16_t *atom_scales, *row_scales;
  const float* start;
  int start_pitch;
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
        if (out.start) y += load<Floats<lanes>>(out.start + f * out.start_pitch + column);
        store(y, out.y + f * out.pitch + column);
      }
    }
  } else {
    for (int i = 0; i < W; ++i)
      for (int f = 0; f < F; ++f) {
        const int column = first + i;
        float y = static_cast<float>(dot(w + i * count, x[f], count)) * steps[f];
        if (out.atom_scales) y *= bfloat16(out.atom_scales[column]) * bfloat16(out.row_scales[column]);
        out.y[f * out.pitch + column] = y + (out.start ? out.start[f * out.start_pitch + column] : 0.0f);
      }
  }
}

template <int F>
inline void int8_dense(const int8_t* w, int rows, int columns, const uint8_t* const* x, const float* steps,
                       const Output& out) {
  for (int first = 0, width; first < columns; first += width) {
    width = panel_width(columns - first);
    const int8_t* panel = w + static_cast<size_t>(first) * rows;
    with_width(width,
               [&](auto panel_columns) { int8_columns<panel_columns.value, F>(x, steps, panel, rows, first, out); });
  }
}

// x[f]: the bytes that the blocks read, one after the other. Run by run: y is what the sums of the next one begin with.
template <int W, int F>
inline void int8_blocks(const Matrix& m, const uint8_t* const* x, const float* steps, const Output& out) {
  const int8_t* w = static_cast<const int8_t*>(m.codes);
  const uint8_t* at[F];
  for (int f = 0; f < F; ++f) at[f] = x[f];
  for (int run = 0; run < m.runs(); ++run) {
    const Output to = run ? Output{nullptr, nullptr, out.y, out.pitch, out.y, out.pitch} : out;
    block_columns<W>(m, run, [&](int count, int first) {
      int8_columns<W, F>(at, steps, w, count, first, to);
      for (int f = 0; f < F; ++f) at[f] += count;
      w += count * W;
    });
  }
}

// to[k] = the byte that block k reads.
inline void expand_blocks(const Matrix& m, const uint8_t* bytes, uint8_t* to) {
  const uint16_t* histogram = m.histogram;
  const uint8_t* index = m.index;
  int rows = m.code_rows(), left = m.blocks;
  for (; rows > kRun; rows -= kRun, bytes += kRun) {
    int blocks = 0;
    for (int count = 0; count <= m.most; ++count) blocks += *histogram++ * count;
    expand(bytes, kRun, index, blocks, to);
    index += blocks, to += blocks, left -= blocks;
  }
  expand(bytes, rows, index, left, to);
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
    auto* bytes = scratch.take<uint8_t>(m.runs() * kRun);  // whole ones, as `expand` reads them
    steps[f] = quantise(u + f * rows, row_scales, rows, scaled, bytes);
    x[f] = bytes;
    if (m.block == 0) continue;
    auto* expanded = scratch.take<uint8_t>(m.blocks + kExpandSlack);
    expand_blocks(m, bytes, expanded);
    x[f] = expanded;
  }
  const Output out = {nullptr, nullptr, m.bias, 0, y, m.columns};
  if (m.block == 0) return int8_dense<F>(static_cast<const int8_t*>(m.codes), rows, m.columns, x, steps, out);
  with_width(m.block, [&](auto width) { int8_blocks<width.value, F>(m, x, steps, out); });
}

// u (F, atoms) = D^T x of x (F, rows).
template <int F>
inline void int8_dictionary(const Matrix& m, const float* x, float* u, int pitch, Scratch scratch) {
  const uint8_t* bytes[F];
  float steps[F];
  for (int f = 0; f < F; ++f) {
    auto* to = scratch.take<uint8_t>(m.rows + kExpandSlack);
    steps[f] = quantise(x + f * m.rows, nullptr, m.rows, nullptr, to);
    bytes[f] = to;
  }
  const Output out = {m.atom_scales, m.row_scales, nullptr, 0, u, pitch};
  int8_dense<F>(static_cast<const int8_t*>(m.dictionary), m.rows, m.atoms, bytes, steps, out);
}

}  // namespace
}  // namespace dirnet
