// How the kernels go through a matrix: block columns by length, widths as compile-time numbers, scratch memory.
#pragma once

#include "layer.h"

namespace dirnet {
namespace {

// Scratch memory, handed out in aligned pieces.
class Scratch {
 public:
  explicit Scratch(void* memory) : next_(static_cast<char*>(memory)) {}
  template <class T>
  T* take(size_t count) {
    char* start = next_;
    next_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(start);
  }

 private:
  char* next_;
};

template <int W>
struct Width {
  static constexpr int value = W;
};

// act(Width<16>() ... Width<1>()): the columns of a panel or block as a number that loops are compiled for.
template <class Act>
inline void with_width(int columns, Act act) {
  switch (columns) {
    case 1:
      return act(Width<1>());
    case 2:
      return act(Width<2>());
    case 4:
      return act(Width<4>());
    case 8:
      return act(Width<8>());
    default:
      return act(Width<16>());
  }
}

// take(count, first column) for every block column, in the order of storage of a run; after the first only for those
// that have blocks in it.
template <int W, class Take>
inline void block_columns(const Matrix& m, int run, Take take) {
  const uint16_t *histogram = m.histogram + run * (m.most + 1), *column = m.order + run * (m.columns / W);
  int count = 0;
  if (run) column += histogram[count++];
  for (; count <= m.most; ++count)
    for (int n = histogram[count]; n > 0; --n) take(count, *column++ * W);
}

}  // namespace
}  // namespace dirnet
