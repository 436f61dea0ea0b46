// Dense codes of which only those that are not zero are stored, with a bit for each place. Int8 ones get their zeros
// back once a call, floats while they are read: with their zeros they would be more bytes than a cache holds.
#pragma once

#include "matrix_float.h"
#include "vec.h"
#include "walk.h"

namespace dirnet {
namespace {

// Of every byte the rank of each bit among those that are set, 255 where it is not, from the lowest on; and how many
// are set.
struct Bits {
  uint64_t ranks[256] = {};
  uint8_t count[256] = {};
  constexpr Bits() {
    for (int byte = 0; byte < 256; ++byte)
      for (int bit = 0; bit < 8; ++bit)
        ranks[byte] |= static_cast<uint64_t>(byte >> bit & 1 ? count[byte]++ : 255) << 8 * bit;
  }
};
constexpr Bits kBits;

// `to` = the next of the `left` values at `from` for every bit of `mask` that is set, 0 for every other one. No value
// beyond them is read.
template <class Value>
inline void inflate(const uint8_t* mask, size_t bytes, const Value* from, size_t left, Value* to) {
  for (size_t k = 0; k < bytes; ++k, to += 8) {
    const size_t count = kBits.count[mask[k]];
    uint64_t values = 0;
    if (left >= 8)
      values = load<uint64_t>(from);
    else
      __builtin_memcpy(&values, from, left);
    store(pick(values, kBits.ranks[mask[k]]), to);
    from += count, left -= count;
  }
}

// `m`, the codes of an int8 one with a mask in scratch memory without it.
inline Matrix inflated(Matrix m, Scratch* scratch) {
  if (!m.mask || !m.quantised()) return m;
  auto* codes = scratch->take<int8_t>(m.places() + kInflateSlack);
  inflate(m.mask, (m.places() + 7) / 8, static_cast<const int8_t*>(m.codes), m.blocks, codes);
  m.mask = nullptr, m.codes = codes;
  return m;
}

static_assert(kSpread <= kSpreadSlack && kWidestBlock % kSpread == 0, "spread reads beyond, or leaves a rest");

// A panel of 16 columns for F frames, as column_block of matrix_float.h; `values` moves on by what it keeps.
template <int F>
inline void masked_panel(const float* x, const uint8_t* mask, const float** values, int rows, Start start, float* y,
                         int pitch) {
  constexpr int pieces = kWidestBlock / kSpread, chains = F == 1 ? 8 / pieces : 1;
  Floats<kSpread> sum[F][chains][pieces] = {};
  const auto add = [&](int k, int chain) {
    for (int piece = 0; piece < pieces; ++piece) {
      const int bit = piece * kSpread;
      const auto w = spread(mask[2 * k + bit / 8] >> bit % 8 & ((1 << kSpread) - 1), values);
      for (int f = 0; f < F; ++f) sum[f][chain][piece] += w * x[k * F + f];
    }
  };
  int k = 0;
  for (; k + chains <= rows; k += chains)
    for (int chain = 0; chain < chains; ++chain) add(k + chain, chain);
  for (; k < rows; ++k) add(k, 0);
  for (int f = 0; f < F; ++f)
    for (int piece = 0; piece < pieces; ++piece) {
      Floats<kSpread> total = sum[f][0][piece];
      for (int chain = 1; chain < chains; ++chain) total += sum[f][chain][piece];
      if (start.at) total += load<Floats<kSpread>>(start.of(f) + piece * kSpread);
      store(total, y + f * pitch + piece * kSpread);
    }
}

// y (F, columns) = Z^T u + bias of floats with a mask, u interleaved.
template <int F>
inline void masked_tile(const Matrix& m, const float* u, float* y) {
  const float* values = static_cast<const float*>(m.codes);
  const int rows = m.code_rows();
  const Start start = {m.bias, 0};
  int first = 0;
  for (; first + kWidestBlock <= m.columns; first += kWidestBlock)
    masked_panel<F>(u, m.mask + static_cast<size_t>(first) * rows / 8, &values, rows, start.from(first), y + first,
                    m.columns);
  for (size_t bit = static_cast<size_t>(first) * rows; first < m.columns;) {  // narrower panels, a place at a time
    const int width = panel_width(m.columns - first);
    for (int i = 0; i < width; ++i)
      for (int f = 0; f < F; ++f) y[f * m.columns + first + i] = m.bias ? m.bias[first + i] : 0.0f;
    for (int k = 0; k < rows; ++k)
      for (int i = 0; i < width; ++i, ++bit) {
        if (!(m.mask[bit / 8] >> bit % 8 & 1)) continue;
        for (int f = 0; f < F; ++f) y[f * m.columns + first + i] += *values * u[k * F + f];
        ++values;
      }
    first += width;
  }
}

}  // namespace
}  // namespace dirnet
