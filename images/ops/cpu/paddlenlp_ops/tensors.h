// What the operators of paddlenlp_ops have in common: checks, allocation, type-blind copies.
//
// Names, inputs, attributes, shapes, types and in-place maps are those of PaddleNLP's csrc/gpu.
// What upstream reads out of bounds or leaves undefined is an error here, or zeros where a row
// is finished.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "../common/floats.h"
#include "paddle/extension.h"

namespace paddle_stacks {

using paddle::Tensor;
using Dims = std::vector<int64_t>;
using Tensors = std::vector<Tensor>;
using OptionalTensor = paddle::optional<Tensor>;

// Paddle's custom operators get what they update in place as constants.
template <typename T>
T* Mutable(const Tensor& tensor) {
  return const_cast<T*>(tensor.data<T>());
}

inline void* MutableData(const Tensor& tensor) { return const_cast<void*>(tensor.data()); }

inline Tensor Zeros(const Dims& dims, DataType dtype) {
  return paddle::full(dims, 0, dtype, paddle::CPUPlace());
}

inline std::string ToString(const Dims& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

inline void RequireType(const char* what, const Tensor& tensor, DataType dtype) {
  Require(tensor.dtype() == dtype, [&] {
    return std::string(what) + ": expected " + Name(dtype) + ", got " + Name(tensor.dtype());
  });
}

inline void RequireFloating(const char* what, const Tensor& tensor) {
  Require(IsFloating(tensor.dtype()), [&] {
    return std::string(what) + ": expected float32, float16 or bfloat16, got " +
           Name(tensor.dtype());
  });
}

inline void RequireRank(const char* what, const Tensor& tensor, size_t rank) {
  Require(tensor.shape().size() == rank, [&] {
    return std::string(what) + ": expected " + std::to_string(rank) + " dimensions, got " +
           ToString(tensor.shape());
  });
}

// Returns the data of a tensor that has one element for each of `length` rows, or more.
template <typename T>
const T* Rows(const char* what, const Tensor& tensor, int64_t length) {
  RequireType(what, tensor, phi::CppTypeToDataType<T>::Type());
  Require(tensor.numel() >= length, [&] {
    return std::string(what) + ": expected at least " + std::to_string(length) + " elements, got " +
           std::to_string(tensor.numel());
  });
  return tensor.data<T>();
}

template <typename T>
T* MutableRows(const char* what, const Tensor& tensor, int64_t length) {
  return const_cast<T*>(Rows<T>(what, tensor, length));
}

// Copies n elements between tensors of one type, whatever it is.
inline void CopyRow(const Tensor& from, int64_t source, const Tensor& to, int64_t target,
                    int64_t n) {
  const int64_t size = phi::SizeOf(from.dtype());
  std::memcpy(static_cast<char*>(MutableData(to)) + target * size,
              static_cast<const char*>(from.data()) + source * size, n * size);
}

}  // namespace paddle_stacks
