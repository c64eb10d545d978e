// How far each token moves when the padding of a batch is taken out.
//   lengths  [batch] int32, real tokens of each row
//   widths   [batch] int32, padded tokens of each row
//   out      [batch] int32, padding before each row
#include "helper.h"

__global__ void PaddingOffset(const int* lengths, const int* widths, int* out, int batch) {
  using Scan = hipcub::BlockScan<int, 256>;
  __shared__ typename Scan::TempStorage storage;
  int padding = threadIdx.x < batch ? widths[threadIdx.x] - lengths[threadIdx.x] : 0;
  int before = 0;
  Scan(storage).ExclusiveSum(padding, before);
  if (threadIdx.x < batch) out[threadIdx.x] = before;
}

std::vector<paddle::Tensor> GetPaddingOffset(const paddle::Tensor& lengths,
                                             const paddle::Tensor& widths) {
  const int batch = lengths.shape()[0];
  auto out = paddle::empty_like(lengths);
  if (lengths.is_cpu()) {
    int before = 0;
    for (int row = 0; row < batch; ++row) {
      out.data<int>()[row] = before;
      before += widths.data<int>()[row] - lengths.data<int>()[row];
    }
    return {out};
  }
  hipLaunchKernelGGL(PaddingOffset, dim3(1), dim3(256), 0, 0, lengths.data<int>(),
                     widths.data<int>(), out.data<int>(), batch);
  return {out};
}

std::vector<std::vector<int64_t>> Shape(const std::vector<int64_t>& lengths,
                                        const std::vector<int64_t>&) {
  return {lengths};
}

std::vector<paddle::DataType> Type(const paddle::DataType& lengths, const paddle::DataType&) {
  return {lengths};
}

PD_BUILD_OP(get_padding_offset)
    .Inputs({"lengths", "widths"})
    .Outputs({"out"})
    .SetKernelFn(PD_KERNEL(GetPaddingOffset))
    .SetInferShapeFn(PD_INFER_SHAPE(Shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(Type));
