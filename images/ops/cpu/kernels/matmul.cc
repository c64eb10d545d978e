// matmul for the types that libpaddle has no CPU kernel for: int8 (to int32, exactly), float16
// and bfloat16 (in float32, rounded once).
#include "tensors.h"

namespace paddle_stacks {
namespace {

constexpr int64_t kColumns = 128;
// Of products of int8, 1024 fit exactly into a float32.
constexpr int64_t kDepth = 256;

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Copies y[k0:k0+depth, j0:j0+columns] to a panel of rows of kColumns, padded with zeros.
void CopyPanel(const Reader& y, int64_t offset, int64_t rows, int64_t width, bool is_transposed,
               int64_t k0, int64_t depth, int64_t j0, int64_t columns, float* panel) {
  std::fill_n(panel, kDepth * kColumns, 0.f);
  if (!is_transposed) {
    for (int64_t k = 0; k < depth; ++k) {
      y.Copy(offset + (k0 + k) * width + j0, columns, panel + k * kColumns);
    }
    return;
  }
  float row[kDepth];
  for (int64_t j = 0; j < columns; ++j) {
    y.Copy(offset + (j0 + j) * rows + k0, depth, row);
    for (int64_t k = 0; k < depth; ++k) panel[k * kColumns + j] = row[k];
  }
}

// The product of one row: y is read once, so it is not copied to a panel.
template <typename Store>
void MultiplyRow(const float* x, int64_t k, const Reader& y, int64_t offset, int64_t n,
                 bool is_transposed, bool is_integer, const Store& store) {
  const Simd& simd = Simd::Get();
  constexpr int64_t kWide = 1024;
#pragma omp parallel
  {
    std::vector<float> scratch(std::max(kWide, kDepth)), sums(kWide);
    std::vector<int64_t> integers(is_integer ? kWide : 0);
#pragma omp for
    for (int64_t j0 = 0; j0 < n; j0 += kWide) {
      const int64_t columns = std::min(kWide, n - j0);
      std::fill(sums.begin(), sums.end(), 0.f);
      std::fill(integers.begin(), integers.end(), 0);
      for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
        const int64_t depth = std::min(kDepth, k - k0);
        for (int64_t j = 0; is_transposed && j < columns; ++j) {
          const float* row = y.Row(offset + (j0 + j) * k + k0, depth, scratch.data());
          sums[j] += simd.dot(x + k0, row, depth);
        }
        for (int64_t i = 0; !is_transposed && i < depth; ++i) {
          const float* row = y.Row(offset + (k0 + i) * n + j0, columns, scratch.data());
          simd.axpy(x[k0 + i], row, sums.data(), columns);
        }
        if (is_integer) {
          for (int64_t j = 0; j < columns; ++j) integers[j] += static_cast<int64_t>(sums[j]);
          std::fill(sums.begin(), sums.end(), 0.f);
        }
      }
      store(j0, columns, sums.data(), integers.data());
    }
  }
}

// One matrix product of x[m, k], in float32 and with rows padded to a multiple of 4, and y.
template <typename Store>
void Multiply(const float* x, int64_t m, int64_t k, const Reader& y, int64_t offset, int64_t n,
              bool is_transposed, bool is_integer, const Store& store) {
  if (m == 1) return MultiplyRow(x, k, y, offset, n, is_transposed, is_integer, store);
  const Simd& simd = Simd::Get();
  const int64_t padded = RoundUp(m, 4);
#pragma omp parallel
  {
    std::vector<float> panel(kDepth * kColumns), sums(padded * kColumns);
    std::vector<int64_t> integers(is_integer ? padded * kColumns : 0);
#pragma omp for
    for (int64_t j0 = 0; j0 < n; j0 += kColumns) {
      const int64_t columns = std::min(kColumns, n - j0);
      std::fill(sums.begin(), sums.end(), 0.f);
      std::fill(integers.begin(), integers.end(), 0);
      for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
        const int64_t depth = std::min(kDepth, k - k0);
        CopyPanel(y, offset, k, n, is_transposed, k0, depth, j0, columns, panel.data());
        for (int64_t i = 0; i < padded; i += 4) {
          simd.gemm4(x + i * k + k0, k, panel.data(), depth, kColumns, sums.data() + i * kColumns,
                     kColumns);
        }
        if (is_integer) {
          for (size_t i = 0; i < sums.size(); ++i) integers[i] += static_cast<int64_t>(sums[i]);
          std::fill(sums.begin(), sums.end(), 0.f);
        }
      }
      for (int64_t i = 0; i < m; ++i) {
        store(i * n + j0, columns, sums.data() + i * kColumns, integers.data() + i * kColumns);
      }
    }
  }
}

}  // namespace

// x is [..., m, k] and y [k, n], or [n, k] if transpose_y; a y of more dimensions must have
// those of x before the last two.
template <typename T, typename Context>
void Matmul(const Context& context, const DenseTensor& x, const DenseTensor& y, bool transpose_x,
            bool transpose_y, DenseTensor* out) {
  const auto x_dims = x.dims(), y_dims = y.dims();
  const int x_rank = x_dims.size(), y_rank = y_dims.size();
  Require(!transpose_x && x_rank >= 2 && y_rank >= 2, [&] {
    return "matmul of " + Name(x.dtype()) + " on a CPU requires matrices and transpose_x=False";
  });
  const int64_t n = transpose_y ? y_dims[y_rank - 2] : y_dims[y_rank - 1];
  const int64_t k = transpose_y ? y_dims[y_rank - 1] : y_dims[y_rank - 2];
  Require(x_dims[x_rank - 1] == k && k > 0 && n > 0, [&] {
    return "matmul: shapes [" + x_dims.to_str() + "] and [" + y_dims.to_str() + "] do not match";
  });
  const int64_t matrices = y_rank == 2 ? 1 : y.numel() / (n * k);
  if (y_rank > 2) {
    Require(phi::slice_ddim(x_dims, 0, x_rank - 2) == phi::slice_ddim(y_dims, 0, y_rank - 2), [&] {
      return "matmul of " + Name(x.dtype()) + " on a CPU does not broadcast: [" + x_dims.to_str() +
             "] and [" + y_dims.to_str() + "]";
    });
  }
  const int64_t m = x.numel() / k / std::max<int64_t>(matrices, 1);

  const bool is_integer = x.dtype() == DataType::INT8;
  const DataType dtype = is_integer ? DataType::INT32 : x.dtype();
  void* data = Allocate(context, out, dtype);
  const Reader left = Read(x), right = Read(y);
  std::vector<float> rows(RoundUp(m, 4) * k);
  for (int64_t b = 0; b < matrices; ++b) {
    left.Copy(b * m * k, m * k, rows.data());
    if (is_integer) {
      int32_t* integers = static_cast<int32_t*>(data) + b * m * n;
      Multiply(rows.data(), m, k, right, b * k * n, n, transpose_y, true,
               [&](int64_t offset, int64_t count, const float*, const int64_t* sums) {
                 for (int64_t i = 0; i < count; ++i) {
                   integers[offset + i] = static_cast<int32_t>(sums[i]);
                 }
               });
    } else {
      const Writer floats(data, dtype);
      Multiply(rows.data(), m, k, right, b * k * n, n, transpose_y, false,
               [&](int64_t offset, int64_t count, const float* sums, const int64_t*) {
                 floats.Row(b * m * n + offset, count, sums);
               });
    }
  }
}

}  // namespace paddle_stacks

PD_REGISTER_KERNEL(matmul, CPU, ALL_LAYOUT, paddle_stacks::Matmul, int8_t, phi::dtype::float16,
                   phi::dtype::bfloat16) {}
