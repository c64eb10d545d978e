// Kernels that libpaddle has on a CPU, but not for the types that a float16 or bfloat16 model of
// PaddleNLP's calls them with.
#include "tensors.h"

namespace paddle_stacks {

template <typename T, typename Context>
void Shape(const Context& context, const DenseTensor& input, DenseTensor* out) {
  const auto& dims = input.dims();
  out->Resize({dims.size()});
  int32_t* data = context.template Alloc<int32_t>(out);
  for (int i = 0; i < dims.size(); ++i) data[i] = static_cast<int32_t>(dims[i]);
}

// Keeps what is not above the given diagonal of each matrix.
template <typename T, typename Context>
void Tril(const Context& context, const DenseTensor& x, int diagonal, DenseTensor* out) {
  const auto& dims = x.dims();
  Require(dims.size() >= 2, [&] { return "tril: expected a matrix, got [" + dims.to_str() + "]"; });
  const int64_t rows = dims[dims.size() - 2], columns = dims[dims.size() - 1];
  const T* from = x.data<T>();
  T* to = context.template Alloc<T>(out);
  for (int64_t i = 0; i < x.numel(); ++i) {
    const int64_t row = i / columns % rows, column = i % columns;
    to[i] = column <= row + diagonal ? from[i] : T(0);
  }
}

}  // namespace paddle_stacks

PD_REGISTER_KERNEL(shape, CPU, ALL_LAYOUT, paddle_stacks::Shape, phi::dtype::float16,
                   phi::dtype::bfloat16) {}
PD_REGISTER_KERNEL(tril, CPU, ALL_LAYOUT, paddle_stacks::Tril, phi::dtype::bfloat16) {}
