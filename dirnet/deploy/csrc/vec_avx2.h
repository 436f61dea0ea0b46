// Int8 with AVX2: products of pairs in 16 bits. With |x|, |w| <= 127 a pair's sum stays below 2^15.
#pragma once

#include <immintrin.h>

#include "spread_avx.h"
#include "vec.h"

namespace dirnet {
namespace {

constexpr const char* kPath = "avx2";
constexpr int kLanes = 8;
constexpr int kByteZero = 0;

inline int32_t four(const void* x) { return load<int32_t>(x); }

inline __m128i half(const void* from) { return _mm_loadl_epi64(static_cast<const __m128i*>(from)); }

inline void widen(const int8_t* from, Ints<4>* to) { *to = (Ints<4>)_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four(from))); }
inline void widen(const int8_t* from, Ints<8>* to) { *to = (Ints<8>)_mm256_cvtepi8_epi32(half(from)); }
inline void widen(const uint16_t* from, Ints<4>* to) { *to = (Ints<4>)_mm_cvtepu16_epi32(half(from)); }
inline void widen(const uint16_t* from, Ints<8>* to) { *to = (Ints<8>)_mm256_cvtepu16_epi32(load<__m128i>(from)); }

inline Ints<8> dot4(Ints<8> sum, const int8_t* w, const uint8_t* x) {
  const __m256i bytes = _mm256_set1_epi32(four(x)), weights = load<__m256i>(w);
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(bytes), _mm256_sign_epi8(weights, bytes));
  return sum + (Ints<8>)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

inline Ints<4> dot4(Ints<4> sum, const int8_t* w, const uint8_t* x) {
  const __m128i bytes = _mm_set1_epi32(four(x)), weights = load<__m128i>(w);
  const __m128i pairs = _mm_maddubs_epi16(_mm_abs_epi8(bytes), _mm_sign_epi8(weights, bytes));
  return sum + (Ints<4>)_mm_madd_epi16(pairs, _mm_set1_epi16(1));
}

inline int32_t dot(const int8_t* w, const uint8_t* x, int n) {
  Ints<8> sums = {};
  int k = 0;
  for (; k + 32 <= n; k += 32) {
    const __m256i bytes = load<__m256i>(x + k), weights = load<__m256i>(w + k);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(bytes), _mm256_sign_epi8(weights, bytes));
    sums += (Ints<8>)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  int32_t sum = total<8>(sums);
  for (; k < n; ++k) sum += w[k] * static_cast<int8_t>(x[k]);
  return sum;
}

inline uint64_t pick(uint64_t bytes, uint64_t ranks) {
  return _mm_cvtsi128_si64(_mm_shuffle_epi8(_mm_cvtsi64_si128(bytes), _mm_cvtsi64_si128(ranks)));
}

inline void expand(const uint8_t* from, int, const uint8_t* index, int n, uint8_t* to) {
  expand_one_by_one(from, index, n, to);
}

}  // namespace
}  // namespace dirnet
