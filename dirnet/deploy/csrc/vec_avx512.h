// Int8 with AVX-512 VNNI, VBMI and VBMI2: four products a lane and instruction, 64 table look-ups in one to four, the
// zeros of 64 places put back in one. Products are of unsigned by signed bytes, so activations are stored with 128 added; what
// that adds to the sums is 128 times the sum of the weights, counted along and taken off.
#pragma once

#include <immintrin.h>

#include "spread_avx.h"
#include "vec.h"

namespace dirnet {
namespace {

constexpr const char* kPath = "avx512";
constexpr int kLanes = 16;
constexpr int kByteZero = 128;

constexpr __mmask16 kAll = 0xffff;  // GCC 12 warns of its own headers where an intrinsic has no mask

inline int32_t four(const void* x) { return load<int32_t>(x); }

inline __m128i half(const void* from) { return _mm_loadl_epi64(static_cast<const __m128i*>(from)); }

inline void widen(const int8_t* from, Ints<4>* to) { *to = (Ints<4>)_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four(from))); }
inline void widen(const int8_t* from, Ints<8>* to) { *to = (Ints<8>)_mm256_cvtepi8_epi32(half(from)); }
inline void widen(const int8_t* from, Ints<16>* to) {
  *to = (Ints<16>)_mm512_maskz_cvtepi8_epi32(kAll, load<__m128i>(from));
}
inline void widen(const uint16_t* from, Ints<4>* to) { *to = (Ints<4>)_mm_cvtepu16_epi32(half(from)); }
inline void widen(const uint16_t* from, Ints<8>* to) { *to = (Ints<8>)_mm256_cvtepu16_epi32(load<__m128i>(from)); }
inline void widen(const uint16_t* from, Ints<16>* to) {
  *to = (Ints<16>)_mm512_maskz_cvtepu16_epi32(kAll, load<__m256i>(from));
}

inline Ints<16> dot4(Ints<16> sum, const int8_t* w, const uint8_t* x) {
  return (Ints<16>)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(four(x)), load<__m512i>(w));
}

inline Ints<8> dot4(Ints<8> sum, const int8_t* w, const uint8_t* x) {
  return (Ints<8>)_mm256_dpbusd_epi32((__m256i)sum, _mm256_set1_epi32(four(x)), load<__m256i>(w));
}

inline Ints<4> dot4(Ints<4> sum, const int8_t* w, const uint8_t* x) {
  return (Ints<4>)_mm_dpbusd_epi32((__m128i)sum, _mm_set1_epi32(four(x)), load<__m128i>(w));
}

inline int32_t dot(const int8_t* w, const uint8_t* x, int n) {
  __m512i sum = _mm512_setzero_si512(), zero = sum;
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(kByteZero));
  for (int k = 0; k < n; k += 64) {
    const __mmask64 there = n - k >= 64 ? ~0ull : (1ull << (n - k)) - 1;
    const __m512i weights = _mm512_maskz_loadu_epi8(there, w + k);
    sum = _mm512_dpbusd_epi32(sum, _mm512_maskz_loadu_epi8(there, x + k), weights);
    zero = _mm512_dpbusd_epi32(zero, offset, weights);
  }
  return total<16>((Ints<16>)_mm512_sub_epi32(sum, zero));
}

inline void expand(const uint8_t* from, int rows, const uint8_t* index, int n, uint8_t* to) {
  const __m512i a = load<__m512i>(from), b = load<__m512i>(from + 64);
  const __m512i c = load<__m512i>(from + 128), d = load<__m512i>(from + 192);
  for (int k = 0; k < n; k += 64) {
    const __mmask64 there = n - k >= 64 ? ~0ull : (1ull << (n - k)) - 1;
    const __m512i at = _mm512_maskz_loadu_epi8(there, index + k);
    __m512i found = _mm512_permutex2var_epi8(a, at, b);
    if (rows > 128) found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(at), found, _mm512_permutex2var_epi8(c, at, d));
    _mm512_storeu_si512(to + k, found);
  }
}

inline uint64_t pick(uint64_t bytes, uint64_t ranks) {
  return _mm_cvtsi128_si64(_mm_shuffle_epi8(_mm_cvtsi64_si128(bytes), _mm_cvtsi64_si128(ranks)));
}

// As that of mask.h for any value, 64 places at a time.
inline void inflate(const uint8_t* mask, size_t bytes, const int8_t* from, size_t left, int8_t* to) {
  for (size_t k = 0; k < bytes; k += 8, to += 64) {
    const __mmask16 there = bytes - k >= 8 ? 0xff : (1 << (bytes - k)) - 1;
    const __mmask64 bits = _mm_cvtsi128_si64(_mm_maskz_loadu_epi8(there, mask + k));
    const size_t count = __builtin_popcountll(bits);
    const __m512i values = _mm512_maskz_loadu_epi8(left >= 64 ? ~0ull : (1ull << left) - 1, from);
    _mm512_storeu_si512(to, _mm512_maskz_expand_epi8(bits, values));
    from += count, left -= count;
  }
}

}  // namespace
}  // namespace dirnet
