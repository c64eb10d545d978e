// Loops over float32 rows that all operators share, compiled twice: for x86-64-v3 (AVX2, FMA,
// F16C) and for any x86-64. `Simd::Get()` chooses by the processor when it is first called.
#pragma once

#include <cstdint>

namespace paddle_stacks {

struct Simd {
  float (*dot)(const float* a, const float* b, int64_t n);
  // y += a * x
  void (*axpy)(float a, const float* x, float* y, int64_t n);
  // c[4, n] += a[4, k] b[k, n], with n a multiple of 16; rows of c are ldc apart.
  void (*gemm4)(const float* a, int64_t lda, const float* b, int64_t k, int64_t n, float* c,
                int64_t ldc);
  void (*from_float16)(const uint16_t* x, float* y, int64_t n);
  void (*from_bfloat16)(const uint16_t* x, float* y, int64_t n);
  void (*from_int8)(const int8_t* x, float* y, int64_t n);
  // To the nearest, ties to even. Paddle's own conversions on a CPU truncate.
  void (*to_float16)(const float* x, uint16_t* y, int64_t n);
  void (*to_bfloat16)(const float* x, uint16_t* y, int64_t n);

  static const Simd& Get();
};

}  // namespace paddle_stacks
