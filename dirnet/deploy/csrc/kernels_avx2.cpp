#include "vec_avx2.h"
// The instruction set comes first.
#include "kernels.h"

DIRNET_KERNELS(kernels_avx2)
