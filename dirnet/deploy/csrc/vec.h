// Vectors as GCC and Clang know them: 16 floats are one AVX-512, two AVX or four NEON registers.
#pragma once

#include <cstdint>
#include <cstring>

#pragma GCC diagnostic ignored "-Wpsabi"  // all is inlined here, no vector crosses an ABI

namespace dirnet {
namespace {

template <class T, int W>
struct VectorOf {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
};
template <int W>
using Floats = typename VectorOf<float, W>::type;
template <int W>
using Ints = typename VectorOf<int32_t, W>::type;

template <class V>
inline V load(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
inline void store(const V& v, void* to) {
  __builtin_memcpy(to, &v, sizeof v);
}

constexpr int kExpandTable = 256, kExpandSlack = 64;

// to[k] = from[index[k]], k < n. `from` has kExpandTable entries, `to` room for kExpandSlack more than n.
inline void expand_one_by_one(const uint8_t* from, const uint8_t* index, int n, uint8_t* to) {
  for (int k = 0; k < n; ++k) to[k] = from[index[k]];
}

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

// The places of the bits of `mask`, and how many they are. Behind them, up to 64 entries of `to` are lost.
template <class Index>
inline int places_of(const uint8_t* mask, int bytes, Index* to) {
  typedef uint8_t Bytes __attribute__((vector_size(8)));
  typedef Index Eight __attribute__((vector_size(8 * sizeof(Index))));
  Index* const start = to;
  for (int k = 0; k < bytes; ++k) {
    const Eight places = __builtin_convertvector(load<Bytes>(&kBits.places[mask[k]]), Eight);
    store(places + static_cast<Index>(8 * k), to);
    to += kBits.count[mask[k]];
  }
  return static_cast<int>(to - start);
}

template <int W>
inline int32_t total(const Ints<W>& v) {
  if constexpr (W == 1) {
    return v[0];
  } else {
    Ints<W / 2> halves[2];
    __builtin_memcpy(halves, &v, sizeof v);
    return total<W / 2>(halves[0] + halves[1]);
  }
}

}  // namespace
}  // namespace dirnet
