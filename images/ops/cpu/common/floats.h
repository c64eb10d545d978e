// Tensors of float32, float16 or bfloat16 (and int32, where dequantized) read and written as
// float32. Operators are computed in float32 and rounded once, when a result is stored.
#pragma once

#include <algorithm>
#include <string>

#include "paddle/phi/common/data_type.h"
#include "require.h"
#include "simd.h"

namespace paddle_stacks {

using DataType = phi::DataType;

inline bool IsFloating(DataType dtype) {
  return dtype == DataType::FLOAT32 || dtype == DataType::FLOAT16 || dtype == DataType::BFLOAT16;
}

inline std::string Name(DataType dtype) { return phi::DataTypeToString(dtype); }

// A tensor to read. Holds no ownership; the tensor must outlive it.
class Reader {
 public:
  Reader(const void* data, DataType dtype) : data_(data), dtype_(dtype) {
    Require(IsFloating(dtype) || dtype == DataType::INT32 || dtype == DataType::INT8, [&] {
      return "expected float32, float16, bfloat16, int32 or int8, got " + Name(dtype);
    });
  }

  // Copies n elements that start at `offset` to `out`.
  void Copy(int64_t offset, int64_t n, float* out) const {
    const Simd& simd = Simd::Get();
    switch (dtype_) {
      case DataType::FLOAT32:
        std::copy_n(static_cast<const float*>(data_) + offset, n, out);
        break;
      case DataType::FLOAT16:
        simd.from_float16(static_cast<const uint16_t*>(data_) + offset, out, n);
        break;
      case DataType::BFLOAT16:
        simd.from_bfloat16(static_cast<const uint16_t*>(data_) + offset, out, n);
        break;
      case DataType::INT8:
        simd.from_int8(static_cast<const int8_t*>(data_) + offset, out, n);
        break;
      default: {
        const int32_t* source = static_cast<const int32_t*>(data_) + offset;
        for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(source[i]);
      }
    }
  }

  // Returns n elements that start at `offset`: in place for float32, else in `scratch`.
  const float* Row(int64_t offset, int64_t n, float* scratch) const {
    if (dtype_ == DataType::FLOAT32) return static_cast<const float*>(data_) + offset;
    Copy(offset, n, scratch);
    return scratch;
  }

  float At(int64_t offset) const {
    float value;
    Copy(offset, 1, &value);
    return value;
  }

 private:
  const void* data_;
  DataType dtype_;
};

// A tensor to write.
class Writer {
 public:
  Writer(void* data, DataType dtype) : data_(data), dtype_(dtype) {
    Require(IsFloating(dtype),
            [&] { return "expected float32, float16 or bfloat16, got " + Name(dtype); });
  }

  void Row(int64_t offset, int64_t n, const float* values) const {
    const Simd& simd = Simd::Get();
    if (dtype_ == DataType::FLOAT32) {
      std::copy_n(values, n, static_cast<float*>(data_) + offset);
    } else if (dtype_ == DataType::FLOAT16) {
      simd.to_float16(values, static_cast<uint16_t*>(data_) + offset, n);
    } else {
      simd.to_bfloat16(values, static_cast<uint16_t*>(data_) + offset, n);
    }
  }

 private:
  void* data_;
  DataType dtype_;
};

// Rounds values to what a tensor of `dtype` would hold.
inline void RoundTo(DataType dtype, float* values, int64_t n) {
  if (dtype == DataType::FLOAT32) return;
  uint16_t rounded[256];
  const Simd& simd = Simd::Get();
  for (int64_t i = 0; i < n; i += 256) {
    const int64_t count = std::min<int64_t>(256, n - i);
    if (dtype == DataType::FLOAT16) {
      simd.to_float16(values + i, rounded, count);
      simd.from_float16(rounded, values + i, count);
    } else {
      simd.to_bfloat16(values + i, rounded, count);
      simd.from_bfloat16(rounded, values + i, count);
    }
  }
}

template <typename Tensor>
Reader Read(const Tensor& tensor) {
  return Reader(tensor.data(), tensor.dtype());
}

}  // namespace paddle_stacks
