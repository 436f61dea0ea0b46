// Which rows of Z the blocks read, where a matrix tells it by a bit for each: turned into indices, once a call.
#pragma once

#include "vec.h"
#include "walk.h"

namespace dirnet {
namespace {

// The indices of `m`, in the order of its blocks; false if a column has not as many bits as it has blocks, or one
// beyond the last row. `to` has room for mask_slack(m) more than there are blocks.
template <class Index>
inline bool indices(const Matrix& m, Index* to) {
  const int bytes = mask_bytes(m), last_bits = m.code_rows() - 8 * (bytes - 1);
  const uint8_t* mask = m.mask;
  int wrong = 0;
  block_columns<1>(m, [&](int count, int) {
    wrong |= (places_of(mask, bytes, to) != count) | mask[bytes - 1] >> last_bits;
    to += count;  // whatever was found: a wrong mask must not lead out of the memory
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
