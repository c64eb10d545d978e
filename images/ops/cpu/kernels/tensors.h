// What the kernels of the plug-in have in common: optional tensors, allocation, checks.
#pragma once

#include <string>
#include <vector>

#include "../common/floats.h"
#include "paddle/phi/backends/cpu/cpu_context.h"
#include "paddle/phi/core/dense_tensor.h"
#include "paddle/phi/core/kernel_registry.h"
#include "paddle/utils/optional.h"

namespace paddle_stacks {

using phi::CPUContext;
using phi::DenseTensor;
using Optional = paddle::optional<DenseTensor>;

// Returns an optional row of floats, empty where the tensor is absent.
inline std::vector<float> Floats(const Optional& tensor, const char* what, int64_t length) {
  if (!tensor) return {};
  RequireLength(what, tensor->numel(), length);
  std::vector<float> values(length);
  Read(*tensor).Copy(0, length, values.data());
  return values;
}

// Allocates `tensor` with a type that is only known at run time, and returns its data.
inline void* Allocate(const CPUContext& context, DenseTensor* tensor, DataType dtype) {
  return context.Alloc(tensor, dtype);
}

inline Writer AllocateFloats(const CPUContext& context, DenseTensor* tensor, DataType dtype) {
  return Writer(Allocate(context, tensor, dtype), dtype);
}

// The type in which an operator stores floats: that of its input, or for int32 input (a
// product of int8 matrices) the one that `compute_dtype` names.
inline DataType FloatType(DataType input, const std::string& compute_dtype, const char* op) {
  if (IsFloating(input)) return input;
  if (compute_dtype == "fp32") return DataType::FLOAT32;
  if (compute_dtype == "fp16") return DataType::FLOAT16;
  if (compute_dtype == "bf16") return DataType::BFLOAT16;
  Fail(std::string(op) + ": int32 input requires compute_dtype fp32, fp16 or bf16, got " +
       compute_dtype);
}

inline void RequireType(const char* what, const DenseTensor& tensor, DataType dtype) {
  Require(tensor.dtype() == dtype, [&] {
    return std::string(what) + ": expected " + Name(dtype) + ", got " + Name(tensor.dtype());
  });
}

inline void RequireShape(const char* what, const DenseTensor& tensor,
                         const std::vector<int64_t>& shape) {
  Require(tensor.dims() == phi::make_ddim(shape), [&] {
    return std::string(what) + ": expected shape [" + phi::make_ddim(shape).to_str() + "], got [" +
           tensor.dims().to_str() + "]";
  });
}

// The caches are inputs that Paddle declares as updated in place.
template <typename T>
T* Mutable(const DenseTensor& tensor) {
  return const_cast<T*>(tensor.data<T>());
}

}  // namespace paddle_stacks
