// int8 quantization as Paddle's and PaddleNLP's kernels define it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "floats.h"

namespace paddle_stacks {

// Rounds half to even for type 0, half away from zero for type 1.
inline float RoundHalf(float value, int round_type) {
  return round_type == 0 ? std::nearbyint(value) : std::round(value);
}

// value -> round(max * scale * value), clamped to [min, max]. Not a number becomes `min`: the
// conversion to an integer would be undefined.
struct Quantizer {
  float scale;
  int round_type;
  float max;
  float min;

  void Check(const char* op) const {
    Require(round_type == 0 || round_type == 1, [&] {
      return std::string(op) + ": quant_round_type must be 0 or 1, got " +
             std::to_string(round_type);
    });
    Require(-128 <= min && min < max && max <= 127, [&] {
      return std::string(op) +
             ": quant_min_bound and quant_max_bound must be in [-128, 127], got " +
             std::to_string(min) + " and " + std::to_string(max);
    });
  }

  float Clamp(float rounded) const { return rounded > min ? std::min(rounded, max) : min; }

  int8_t operator()(float value) const {
    return static_cast<int8_t>(Clamp(RoundHalf(max * scale * value, round_type)));
  }
};

// (value + shift) * smooth by columns, then the quantizer; or a plain store. The last step of
// fused_bias_act and of both attentions.
class Output {
 public:
  // `out` is the int8 or floating tensor, already allocated; `shift` and `smooth` hold a
  // float for each column, or are empty.
  Output(void* out, DataType dtype, const Quantizer& quantizer, std::vector<float> shift,
         std::vector<float> smooth)
      : int8_(dtype == DataType::INT8 ? static_cast<int8_t*>(out) : nullptr),
        floats_(out, dtype == DataType::INT8 ? DataType::FLOAT32 : dtype),
        quantizer_(quantizer),
        shift_(std::move(shift)),
        smooth_(std::move(smooth)) {}

  // Stores n values at `offset`; they begin in column `column`.
  void Row(int64_t offset, int64_t column, int64_t n, float* values) const {
    if (!shift_.empty()) {
      for (int64_t i = 0; i < n; ++i) {
        values[i] = (values[i] + shift_[column + i]) * smooth_[column + i];
      }
    }
    if (int8_ == nullptr) {
      floats_.Row(offset, n, values);
      return;
    }
    for (int64_t i = 0; i < n; ++i) int8_[offset + i] = quantizer_(values[i]);
  }

 private:
  int8_t* int8_;
  Writer floats_;
  Quantizer quantizer_;
  std::vector<float> shift_;
  std::vector<float> smooth_;
};

}  // namespace paddle_stacks
