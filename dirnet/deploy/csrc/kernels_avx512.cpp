#include "vec_avx512.h"
// The instruction set comes first.
#include "kernels.h"

DIRNET_KERNELS(kernels_avx512)
