// Which kernels run: chosen by the processor when the program starts.
#include "layer.h"

#include <algorithm>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace dirnet {

extern const Kernels kernels_plain;
#if defined(__x86_64__)
extern const Kernels kernels_avx2, kernels_avx512;
#elif defined(__aarch64__)
extern const Kernels kernels_neon, kernels_neon_dotprod;
#endif

const Kernels* available_kernels() {
  struct List {
    Kernels kernels[4] = {};
    List() {
      Kernels* next = kernels;
#if defined(__x86_64__)
      __builtin_cpu_init();
      const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
      const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
                          __builtin_cpu_supports("avx512vbmi2");
      if (avx2 && avx512) *next++ = kernels_avx512;
      if (avx2) *next++ = kernels_avx2;
#elif defined(__aarch64__)
      if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) *next++ = kernels_neon_dotprod;
      *next++ = kernels_neon;
#endif
      *next = kernels_plain;
    }
  };
  static const List list;
  return list.kernels;
}

// Of int8 codes with the zeros that their mask left out.
static size_t inflated_bytes(const Matrix& m) {
  return m.mask && m.quantised() ? m.places() + kInflateSlack + kAlignment : 0;
}

size_t scratch_bytes(const Matrix& m) {
  const size_t rows = m.rows, read = m.code_rows(), shifts = m.shifts();
  const size_t floats = kTile * read + (m.reach ? shifts * rows : 0) + (kTile + 1) * std::max({rows, read});
  const size_t bytes = kTile * (std::max({rows, read}) + kRun + m.blocks);
  return inflated_bytes(m) + floats * sizeof(float) + bytes + 32 * 2 * kAlignment;
}

size_t scratch_bytes(const Layer& layer) {
  const size_t width = layer.recurrent.columns, n = layer.recurrent.rows, gates = (kChunk + 1) * width + n;
  return inflated_bytes(layer.input) + inflated_bytes(layer.recurrent) + gates * sizeof(float) +
         std::max({scratch_bytes(layer.input), scratch_bytes(layer.recurrent)}) + 4 * kAlignment;
}

}  // namespace dirnet
