// Single codes put in their places, eight at a time: a look-up of where each comes from, and one permutation.
#pragma once

#include <immintrin.h>

#include "vec.h"

namespace dirnet {
namespace {

constexpr int kSpread = 8;

// Of every byte the rank of each bit among those that are set, -1 where it is not, from the lowest on.
struct Ranks {
  alignas(32) int32_t of[256][8] = {};
  constexpr Ranks() {
    for (int byte = 0; byte < 256; ++byte)
      for (int bit = 0, rank = 0; bit < 8; ++bit) of[byte][bit] = byte >> bit & 1 ? rank++ : -1;
  }
};
constexpr Ranks kRanks;

// As that of vec_plain.h. AVX-512's own expansion takes twice as long on Zen 4.
inline Floats<8> spread(uint32_t bits, const float** from) {
  const __m256 ranks = load<__m256>(kRanks.of[bits]);
  const __m256 picked = _mm256_permutevar8x32_ps(load<__m256>(*from), (__m256i)ranks);
  *from += __builtin_popcount(bits);
  return (Floats<8>)_mm256_blendv_ps(picked, _mm256_setzero_ps(), ranks);
}

}  // namespace
}  // namespace dirnet
