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

constexpr int kExpandSlack = 64;

// to[k] = from[index[k]], k < n. `from` has 256 entries, `to` room for kExpandSlack more than n.
inline void expand_one_by_one(const uint8_t* from, const uint8_t* index, int n, uint8_t* to) {
  for (int k = 0; k < n; ++k) to[k] = from[index[k]];
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
