#define PS_NAMESPACE avx512
#include "kernels.inc"
