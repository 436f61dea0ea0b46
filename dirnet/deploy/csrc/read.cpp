// The fastest that one core can look at a buffer: a vectorised sum, against which the kernels are held.
#include <cstddef>
#include <cstdint>

extern "C" uint32_t dirnet_read(const uint32_t* values, size_t count) {
  typedef uint32_t Lane __attribute__((vector_size(64), aligned(4)));  // the compiler cuts it into what there is
  Lane sums[8] = {};  // enough in flight that no addition waits for the one before
  size_t at = 0;
  for (; at + 128 <= count; at += 128)
    for (int lane = 0; lane < 8; ++lane) sums[lane] += *reinterpret_cast<const Lane*>(values + at + 16 * lane);
  uint32_t total = 0;
  for (; at < count; ++at) total += values[at];
  for (const Lane& sum : sums)
    for (int i = 0; i < 16; ++i) total += sum[i];
  return total;
}
