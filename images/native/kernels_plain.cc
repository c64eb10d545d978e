#define PS_NAMESPACE plain
#include "kernels.inc"
