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

// x + y, with y of x's shape or of its last dimensions: a bias.
template <typename T, typename Context>
void Add(const Context& context, const DenseTensor& x, const DenseTensor& y, DenseTensor* out) {
  const int rank = x.dims().size(), missing = rank - y.dims().size();
  Require(missing >= 0 && y.dtype() == x.dtype() && y.numel() > 0 &&
              phi::slice_ddim(x.dims(), missing, rank) == y.dims(),
          [&] {
            return "add of " + Name(x.dtype()) + " on a CPU: shapes [" + x.dims().to_str() +
                   "] and [" + y.dims().to_str() + "] do not match";
          });
  const int64_t width = y.numel();
  std::vector<float> row(width), added(width);
  Read(y).Copy(0, width, added.data());
  const Reader in = Read(x);
  const Writer sums = AllocateFloats(context, out, x.dtype());
  for (int64_t offset = 0; offset < x.numel(); offset += width) {
    in.Copy(offset, width, row.data());
    for (int64_t i = 0; i < width; ++i) row[i] += added[i];
    sums.Row(offset, width, row.data());
  }
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
PD_REGISTER_KERNEL(add, CPU, ALL_LAYOUT, paddle_stacks::Add, phi::dtype::float16,
                   phi::dtype::bfloat16) {}
PD_REGISTER_KERNEL(tril, CPU, ALL_LAYOUT, paddle_stacks::Tril, phi::dtype::bfloat16) {}
