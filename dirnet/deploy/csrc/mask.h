// Dense int8 codes of which only those that are not zero are stored, with a bit for each place: put back once a call.
#pragma once

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

// `to` = the next of the `left` values at `from` for every bit of `mask` that is set, 0 for every other one; false
// unless all values have found a place. No value beyond them is read.
template <class Value>
inline bool inflate(const uint8_t* mask, size_t bytes, const Value* from, size_t left, Value* to) {
  for (size_t k = 0; k < bytes; ++k, to += 8) {
    const size_t count = kBits.count[mask[k]];
    if (count > left) return false;
    uint64_t values = 0;
    if (left >= 8)
      values = load<uint64_t>(from);
    else
      __builtin_memcpy(&values, from, left);
    store(pick(values, kBits.ranks[mask[k]]), to);
    from += count, left -= count;
  }
  return left == 0;
}

// `m` without a mask, its codes in scratch memory if it had one; false as above, or if there are bits beyond the end.
inline bool unmasked(const Matrix& m, Matrix* to, Scratch* scratch) {
  *to = m;
  if (!m.mask) return true;
  const size_t places = static_cast<size_t>(m.code_rows()) * m.columns, bytes = (places + 7) / 8;
  auto* codes = scratch->take<int8_t>(places + kInflateSlack);
  to->mask = nullptr, to->codes = codes;
  const bool beyond = places % 8 && m.mask[bytes - 1] >> places % 8;
  return !beyond && inflate(m.mask, bytes, static_cast<const int8_t*>(m.codes), m.blocks, codes);
}

}  // namespace
}  // namespace dirnet
