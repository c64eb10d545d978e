#define PS_NAMESPACE avx2
#include "kernels.inc"
