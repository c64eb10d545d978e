#include "simd.h"

#include <cpuid.h>
#include <immintrin.h>
#include <stdlib.h>

#include <cstring>

namespace paddle_stacks {
namespace {

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  float value;
  if (magnitude >= 0x7c00u) {  // infinity or not a number
    const uint32_t bits = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
    std::memcpy(&value, &bits, sizeof(value));
  } else if (magnitude < 0x400u) {  // zero or subnormal: a multiple of 2^-24
    value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
    if (sign) value = -value;
  } else {
    const uint32_t bits = sign | ((magnitude << 13) + (112u << 23));
    std::memcpy(&value, &bits, sizeof(value));
  }
  return value;
}

uint16_t FloatToHalf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return sign | 0x7e00u;
  if (bits >= 0x477ff000u) return sign | 0x7c00u;  // rounds to more than 65504
  if (bits < 0x38800000u) {                        // below the least normal number, 2^-14
    // The sum has float16's least subnormal as its last bit, so the addition rounds.
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof(magnitude));
    magnitude += 0.5f;
    uint32_t sum;
    std::memcpy(&sum, &magnitude, sizeof(sum));
    return sign | static_cast<uint16_t>(sum - 0x3f000000u);
  }
  bits += 0xfffu + ((bits >> 13) & 1u);
  return sign | static_cast<uint16_t>((bits - (112u << 23)) >> 13);
}

namespace plain {
#include "simd.inc"
}

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define PADDLE_STACKS_F16C
namespace v3 {
#include "simd.inc"
}
#undef PADDLE_STACKS_F16C
#pragma GCC pop_options

bool HasF16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

}  // namespace

const Simd& Simd::Get() {
  // GCC's answer includes whether the operating system saves the registers. The variable is
  // for tests of what an older processor gets.
  static const bool has_v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                             HasF16c() && getenv("PADDLE_STACKS_PLAIN_X86") == nullptr;
  return has_v3 ? v3::kTable : plain::kTable;
}

}  // namespace paddle_stacks
