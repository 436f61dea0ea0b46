// Int8 in plain C++, for processors without a path of their own.
#pragma once

#include "vec.h"

namespace dirnet {
namespace {

constexpr const char* kPath = "plain";
constexpr int kLanes = 4;     // int32 sums of one register
constexpr int kByteZero = 0;  // what a quantised 0 is stored as

// As many values as `to` holds, as integers.
template <class T>
inline void widen(const T* from, Ints<4>* to) {
  *to = Ints<4>{from[0], from[1], from[2], from[3]};
}

// sum[i] += w[4 i .. 4 i + 4) . x[0 .. 4)
inline Ints<4> dot4(Ints<4> sum, const int8_t* w, const uint8_t* x) {
  for (int i = 0; i < 16; ++i) sum[i / 4] += w[i] * static_cast<int8_t>(x[i % 4]);
  return sum;
}

// The sum of w[i] x[i], i < n.
inline int32_t dot(const int8_t* w, const uint8_t* x, int n) {
  int32_t sum = 0;
  for (int i = 0; i < n; ++i) sum += w[i] * static_cast<int8_t>(x[i]);
  return sum;
}

// Byte i of the result is the one of `bytes` that byte i of `ranks` names, 0 where that is 255.
inline uint64_t pick(uint64_t bytes, uint64_t ranks) {
  uint64_t picked = 0;
  for (int i = 0; i < 64; i += 8) {
    const uint64_t rank = ranks >> i & 255;
    if (rank < 8) picked |= (bytes >> 8 * rank & 255) << i;
  }
  return picked;
}

constexpr int kSpread = 8;  // places that `spread` fills

// For every bit that is set, from the lowest on, the next value at `from`, for every other one 0; moves `from` on, and
// may read kSpread values there, however few bits are set.
inline Floats<kSpread> spread(uint32_t bits, const float** from) {
  Floats<kSpread> values = {};
  for (int i = 0; i < kSpread; ++i)
    if (bits >> i & 1) values[i] = *(*from)++;
  return values;
}

inline void expand(const uint8_t* from, int, const uint8_t* index, int n, uint8_t* to) {
  expand_one_by_one(from, index, n, to);
}

}  // namespace
}  // namespace dirnet
