// Int8 with NEON: the dot product instruction of ARMv8.2 where the compiler may use it, else widening products; table
// look-ups of 64 bytes at a time.
#pragma once

#include <arm_neon.h>

#include "vec.h"

namespace dirnet {
namespace {

#if defined(__ARM_FEATURE_DOTPROD)
constexpr const char* kPath = "neon-dotprod";
#else
constexpr const char* kPath = "neon";
#endif
constexpr int kLanes = 4;
constexpr int kByteZero = 0;

inline int32x4_t dot_bytes(int32x4_t sum, int8x16_t a, int8x16_t b) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sum, a, b);
#else
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
  const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(a), vget_high_s8(b)));
  return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
}

inline void widen(const int8_t* from, Ints<4>* to) {
  const int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(load<int32_t>(from)));
  *to = (Ints<4>)vmovl_s16(vget_low_s16(vmovl_s8(bytes)));
}
inline void widen(const uint16_t* from, Ints<4>* to) {
  *to = (Ints<4>)vreinterpretq_s32_u32(vmovl_u16(vld1_u16(from)));
}

inline Ints<4> dot4(Ints<4> sum, const int8_t* w, const uint8_t* x) {
  const int8x16_t bytes = vreinterpretq_s8_s32(vdupq_n_s32(load<int32_t>(x)));
  return (Ints<4>)dot_bytes((int32x4_t)sum, vld1q_s8(w), bytes);
}

inline int32_t dot(const int8_t* w, const uint8_t* x, int n) {
  int32x4_t sums = vdupq_n_s32(0);
  int k = 0;
  for (; k + 16 <= n; k += 16) sums = dot_bytes(sums, vld1q_s8(w + k), vreinterpretq_s8_u8(vld1q_u8(x + k)));
  int32_t sum = vaddvq_s32(sums);
  for (; k < n; ++k) sum += w[k] * static_cast<int8_t>(x[k]);
  return sum;
}

inline uint64_t pick(uint64_t bytes, uint64_t ranks) {
  return vget_lane_u64(vreinterpret_u64_u8(vtbl1_u8(vcreate_u8(bytes), vcreate_u8(ranks))), 0);
}

constexpr int kSpread = 4;

// Of every four bits the bytes of each lane among those of the lanes that are set, 255 where it is not; their number.
struct Ranks {
  uint8_t of[16][16] = {}, count[16] = {};
  constexpr Ranks() {
    for (int bits = 0; bits < 16; ++bits)
      for (int lane = 0; lane < 4; ++lane) {
        const bool set = bits >> lane & 1;
        for (int byte = 0; byte < 4; ++byte) of[bits][4 * lane + byte] = set ? 4 * count[bits] + byte : 255;
        count[bits] += set;
      }
  }
};
constexpr Ranks kRanks;

inline Floats<4> spread(uint32_t bits, const float** from) {
  const uint8x16_t values = load<uint8x16_t>(*from);
  *from += kRanks.count[bits];
  return (Floats<4>)vqtbl1q_u8(values, vld1q_u8(kRanks.of[bits]));
}

inline void expand(const uint8_t* from, int rows, const uint8_t* index, int n, uint8_t* to) {
  const uint8x16x4_t a = vld1q_u8_x4(from), b = vld1q_u8_x4(from + 64);
  const uint8x16x4_t c = vld1q_u8_x4(from + 128), d = vld1q_u8_x4(from + 192);
  const auto look_up = [&](uint8x16_t at) {  // an index beyond its 64 bytes leaves the result as it is
    uint8x16_t found = vqtbl4q_u8(a, at);
    if (rows > 64) found = vqtbx4q_u8(found, b, vsubq_u8(at, vdupq_n_u8(64)));
    if (rows > 128) found = vqtbx4q_u8(found, c, vsubq_u8(at, vdupq_n_u8(128)));
    if (rows > 192) found = vqtbx4q_u8(found, d, vsubq_u8(at, vdupq_n_u8(192)));
    return found;
  };
  int k = 0;
  for (; k + 16 <= n; k += 16) vst1q_u8(to + k, look_up(vld1q_u8(index + k)));
  expand_one_by_one(from, index + k, n - k, to + k);
}

}  // namespace
}  // namespace dirnet
