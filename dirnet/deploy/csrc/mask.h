// Which rows of Z the blocks read, where a matrix tells it by a bit for each: turned into indices, once a call.
#pragma once

#include "vec.h"
#include "walk.h"

namespace dirnet {
namespace {

// Of every byte the places of its bits, one a byte from the lowest on, then zeros; and how many they are.
struct Bits {
  uint64_t places[256] = {};
  uint8_t count[256] = {};
  constexpr Bits() {
    for (int byte = 0; byte < 256; ++byte)
      for (int bit = 0; bit < 8; ++bit)
        if (byte >> bit & 1) places[byte] |= static_cast<uint64_t>(bit) << 8 * count[byte]++;
  }
};
constexpr Bits kBits;

// Eight indices, of which the first ones count: `places` + first.
inline void put(uint64_t places, int first, uint8_t* to) { store(places + first * 0x0101010101010101u, to); }

inline void put(uint64_t places, int first, uint16_t* to) {
  typedef uint8_t Bytes __attribute__((vector_size(8)));
  typedef uint16_t Words __attribute__((vector_size(16)));
  store(__builtin_convertvector(load<Bytes>(&places), Words) + static_cast<uint16_t>(first), to);
}

// The indices of `m`, in the order of its blocks; false if a column has not as many bits as it has blocks, or one
// beyond the last row. `to` has room for mask_slack(m) more than there are blocks.
template <class Index>
inline bool indices(const Matrix& m, Index* to) {
  const int bytes = mask_bytes(m), last_bits = m.code_rows() - 8 * (bytes - 1);
  const uint8_t* mask = m.mask;
  int wrong = 0;
  block_columns<1>(m, [&](int count, int) {
    Index* next = to;
    for (int k = 0; k < bytes; ++k) {
      put(kBits.places[mask[k]], 8 * k, next);
      next += kBits.count[mask[k]];
    }
    wrong |= (next - to != count) | mask[bytes - 1] >> last_bits;
    to += count;  // not `next`: a wrong mask must not lead out of the memory
    mask += bytes;
  });
  return !wrong;
}

// `m` with indices in any case; false as above.
inline bool with_indices(const Matrix& m, Matrix* to, Scratch* scratch) {
  *to = m;
  if (!m.mask) return true;
  const size_t room = m.blocks + mask_slack(m);
  if (m.code_rows() <= 256) {
    auto* found = scratch->take<uint8_t>(room);
    to->index8 = found;
    return indices(m, found);
  }
  auto* found = scratch->take<uint16_t>(room);
  to->index16 = found;
  return indices(m, found);
}

}  // namespace
}  // namespace dirnet
