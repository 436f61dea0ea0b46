#include "vec_neon.h"
// The instruction set comes first.
#include "kernels.h"

DIRNET_KERNELS(kernels_neon_dotprod)
