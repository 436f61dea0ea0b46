#include "vec_plain.h"
// The instruction set comes first.
#include "kernels.h"

DIRNET_KERNELS(kernels_plain)
