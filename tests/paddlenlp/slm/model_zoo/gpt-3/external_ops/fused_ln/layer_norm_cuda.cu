// Root-mean-square and layer normalization over the last axis, float32, a block for each row.
//   x [rows, width], scale [width], out [rows, width]
#include <hip/hip_runtime.h>

#include <cmath>
#include <hipcub/hipcub.hpp>

#include "paddle/extension.h"
// As upstream's: it leads to <glog/logging.h> and MIOpen's header.
#include "paddle/phi/core/enforce.h"

constexpr int kThreads = 256;

__global__ void Normalize(const float* x, const float* scale, float* out, int width,
                          float epsilon, bool center) {
  using Reduce = hipcub::BlockReduce<float, kThreads>;
  __shared__ typename Reduce::TempStorage storage;
  __shared__ float mean, inverse;
  const float* row = x + blockIdx.x * width;
  float sum = 0;
  for (int i = threadIdx.x; i < width; i += kThreads) sum += row[i];
  float total = Reduce(storage).Sum(sum);
  if (threadIdx.x == 0) mean = center ? total / width : 0;
  __syncthreads();
  float squares = 0;
  for (int i = threadIdx.x; i < width; i += kThreads) squares += (row[i] - mean) * (row[i] - mean);
  total = Reduce(storage).Sum(squares);
  if (threadIdx.x == 0) inverse = rsqrtf(total / width + epsilon);
  __syncthreads();
  for (int i = threadIdx.x; i < width; i += kThreads) {
    out[blockIdx.x * width + i] = (row[i] - mean) * inverse * scale[i];
  }
}

void NormalizeOnHost(const float* x, const float* scale, float* out, int64_t rows, int width,
                     float epsilon, bool center) {
  for (int64_t r = 0; r < rows; ++r, x += width, out += width) {
    double mean = 0, squares = 0;
    for (int i = 0; i < width; ++i) mean += center ? x[i] / width : 0;
    for (int i = 0; i < width; ++i) squares += (x[i] - mean) * (x[i] - mean) / width;
    for (int i = 0; i < width; ++i) out[i] = (x[i] - mean) / std::sqrt(squares + epsilon) * scale[i];
  }
}

std::vector<paddle::Tensor> Forward(const paddle::Tensor& x, const paddle::Tensor& scale,
                                    float epsilon, bool center) {
  auto out = paddle::empty_like(x);
  const int width = x.shape().back();
  const int64_t rows = x.numel() / width;
  if (x.is_cpu()) {
    NormalizeOnHost(x.data<float>(), scale.data<float>(), out.data<float>(), rows, width, epsilon,
                    center);
  } else {
    hipLaunchKernelGGL(Normalize, dim3(rows), dim3(kThreads), 0, 0, x.data<float>(),
                       scale.data<float>(), out.data<float>(), width, epsilon, center);
  }
  return {out};
}

std::vector<paddle::Tensor> LayerNorm(const paddle::Tensor& x, const paddle::Tensor& scale,
                                      float epsilon) {
  return Forward(x, scale, epsilon, true);
}

std::vector<paddle::Tensor> RmsNorm(const paddle::Tensor& x, const paddle::Tensor& scale,
                                    float epsilon) {
  return Forward(x, scale, epsilon, false);
}

std::vector<std::vector<int64_t>> NormShape(const std::vector<int64_t>& x,
                                            const std::vector<int64_t>&) {
  return {x};
}

std::vector<paddle::DataType> NormType(const paddle::DataType& x, const paddle::DataType&) {
  return {x};
}

PD_BUILD_OP(fused_ln)
    .Inputs({"x", "scale"})
    .Attrs({"epsilon: float"})
    .Outputs({"out"})
    .SetKernelFn(PD_KERNEL(LayerNorm))
    .SetInferShapeFn(PD_INFER_SHAPE(NormShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(NormType));

PD_BUILD_OP(fused_rms_norm)
    .Inputs({"x", "scale"})
    .Attrs({"epsilon: float"})
    .Outputs({"out"})
    .SetKernelFn(PD_KERNEL(RmsNorm))
    .SetInferShapeFn(PD_INFER_SHAPE(NormShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(NormType));
