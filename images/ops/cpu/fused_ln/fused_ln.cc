// fused_ln and fused_rms_norm, forward and backward, with upstream's names, types and saved
// statistics: the mean and 1 / sqrt(variance + epsilon) of each row, in float32.
#include <cmath>

#include "../paddlenlp_ops/tensors.h"

namespace paddle_stacks {
namespace {

struct Extent {
  int64_t count, columns;
};

Extent Check(const char* op, const Tensor& x, const Tensor& scale) {
  RequireFloating(op, x);
  RequireFloating(op, scale);
  Require(x.dtype() == DataType::FLOAT32 || x.dtype() == scale.dtype(), [&] {
    return std::string(op) + ": x of " + Name(x.dtype()) + " requires a scale of the same type, " +
           "got " + Name(scale.dtype());
  });
  const Dims dims = x.shape();
  Require(!dims.empty() && dims.back() > 0 && scale.shape() == Dims{dims.back()}, [&] {
    return std::string(op) + ": x " + ToString(dims) + " and scale " + ToString(scale.shape()) +
           " do not match";
  });
  return {x.numel() / dims.back(), dims.back()};
}

std::vector<float> Floats(const char* op, const Tensor& tensor, int64_t length) {
  RequireLength(op, tensor.numel(), length);
  std::vector<float> values(length);
  Read(tensor).Copy(0, length, values.data());
  return values;
}

// The statistics of one row; mean 0 for the root mean square.
struct Statistics {
  float mean, inverse;
};

Statistics Measure(const float* row, int64_t n, bool is_centred, float epsilon) {
  double mean = 0;
  if (is_centred) {
    for (int64_t i = 0; i < n; ++i) mean += row[i];
    mean /= n;
  }
  double variance = 0;
  for (int64_t i = 0; i < n; ++i) variance += (row[i] - mean) * (row[i] - mean);
  variance /= n;
  return {static_cast<float>(mean), static_cast<float>(1 / std::sqrt(variance + epsilon))};
}

// Returns y, and writes the statistics; `mean` and `bias` are absent for fused_rms_norm.
Tensor Forward(const char* op, const Tensor& x, const Tensor& scale, const Tensor* bias,
               float epsilon, float* mean, float* inverse) {
  const Extent rows = Check(op, x, scale);
  const int64_t n = rows.columns;
  const auto gamma = Floats(op, scale, n);
  const auto beta = bias != nullptr ? Floats(op, *bias, n) : std::vector<float>(n);
  Tensor y = Zeros(x.shape(), scale.dtype());
  const Reader in = Read(x);
  const Writer out(y.data(), y.dtype());
#pragma omp parallel if (x.numel() > 1 << 14)
  {
    std::vector<float> row(n);
#pragma omp for
    for (int64_t r = 0; r < rows.count; ++r) {
      in.Copy(r * n, n, row.data());
      const Statistics s = Measure(row.data(), n, bias != nullptr, epsilon);
      for (int64_t i = 0; i < n; ++i) row[i] = (row[i] - s.mean) * s.inverse * gamma[i] + beta[i];
      out.Row(r * n, n, row.data());
      if (mean != nullptr) mean[r] = s.mean;
      inverse[r] = s.inverse;
    }
  }
  return y;
}

// Returns the gradients of x, scale and bias (zeros for fused_rms_norm, which has none).
Tensors Backward(const char* op, const Tensor& x, const Tensor& scale, const Tensor* mean,
                 const Tensor& invvar, const Tensor& dy) {
  const Extent rows = Check(op, x, scale);
  const int64_t n = rows.columns;
  RequireType(op, dy, scale.dtype());
  RequireLength(op, dy.numel(), x.numel());
  const auto gamma = Floats(op, scale, n);
  const auto inverse = Floats(op, invvar, rows.count);
  const auto means =
      mean != nullptr ? Floats(op, *mean, rows.count) : std::vector<float>(rows.count);
  Tensor dx = Zeros(x.shape(), x.dtype());
  const Reader in = Read(x), out_grad = Read(dy);
  const Writer out(dx.data(), dx.dtype());
  std::vector<double> d_gamma(n), d_beta(n);
  std::vector<float> normal(n), grad(n);
  for (int64_t r = 0; r < rows.count; ++r) {
    in.Copy(r * n, n, normal.data());
    out_grad.Copy(r * n, n, grad.data());
    double sum = 0, product = 0;
    for (int64_t i = 0; i < n; ++i) {
      normal[i] = (normal[i] - means[r]) * inverse[r];
      d_gamma[i] += static_cast<double>(grad[i]) * normal[i];
      d_beta[i] += grad[i];
      grad[i] *= gamma[i];
      sum += grad[i];
      product += static_cast<double>(grad[i]) * normal[i];
    }
    const float shift = mean != nullptr ? static_cast<float>(sum / n) : 0.f;
    const float slope = static_cast<float>(product / n);
    for (int64_t i = 0; i < n; ++i) {
      grad[i] = (grad[i] - shift - normal[i] * slope) * inverse[r];
    }
    out.Row(r * n, n, grad.data());
  }
  Tensors grads = {dx, Zeros({n}, scale.dtype()), Zeros({n}, scale.dtype())};
  const std::vector<float> gammas(d_gamma.begin(), d_gamma.end());
  const std::vector<float> betas(d_beta.begin(), d_beta.end());
  Writer(grads[1].data(), scale.dtype()).Row(0, n, gammas.data());
  Writer(grads[2].data(), scale.dtype()).Row(0, n, betas.data());
  return grads;
}

}  // namespace

Tensors FusedLn(const Tensor& x, const Tensor& scale, const Tensor& bias, float epsilon) {
  RequireType("fused_ln: bias", bias, scale.dtype());
  const int64_t rows = Check("fused_ln", x, scale).count;
  Tensor mean = Zeros({rows}, DataType::FLOAT32), invvar = Zeros({rows}, DataType::FLOAT32);
  Tensor y =
      Forward("fused_ln", x, scale, &bias, epsilon, mean.data<float>(), invvar.data<float>());
  return {y, mean, invvar};
}

std::vector<Dims> FusedLnShape(Dims x, Dims scale, Dims bias, float epsilon) {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < x.size(); ++i) rows *= x[i];
  return {x, {rows}, {rows}};
}

std::vector<DataType> FusedLnType(DataType x, DataType scale, DataType bias) {
  return {x, DataType::FLOAT32, DataType::FLOAT32};
}

Tensors FusedLnGrad(const Tensor& x, const Tensor& scale, const Tensor& bias, const Tensor& mean,
                    const Tensor& invvar, const Tensor& dy, float epsilon) {
  return Backward("fused_ln_grad", x, scale, &mean, invvar, dy);
}

std::vector<Dims> FusedLnGradShape(Dims x, Dims scale, Dims bias, Dims mean, Dims invvar, Dims dy,
                                   float epsilon) {
  return {x, scale, bias};
}

Tensors FusedRmsNorm(const Tensor& x, const Tensor& scale, float epsilon) {
  Check("fused_rms_norm", x, scale);
  Dims rows = x.shape();
  rows.pop_back();
  Tensor invvar = Zeros(rows, DataType::FLOAT32);
  Tensor y = Forward("fused_rms_norm", x, scale, nullptr, epsilon, nullptr, invvar.data<float>());
  return {y, invvar};
}

std::vector<Dims> FusedRmsNormShape(Dims x, Dims scale, float epsilon) {
  Dims rows = x;
  rows.pop_back();
  return {x, rows};
}

std::vector<DataType> FusedRmsNormType(DataType x, DataType scale) {
  return {x, DataType::FLOAT32};
}

Tensors FusedRmsNormGrad(const Tensor& x, const Tensor& scale, const Tensor& invvar,
                         const Tensor& dy, float epsilon) {
  Tensors grads = Backward("fused_rms_norm_grad", x, scale, nullptr, invvar, dy);
  grads.pop_back();
  return grads;
}

std::vector<Dims> FusedRmsNormGradShape(Dims x, Dims scale, Dims invvar, Dims dy, float epsilon) {
  return {x, scale};
}

}  // namespace paddle_stacks

using namespace paddle_stacks;  // NOLINT: the macros below want plain names

PD_BUILD_OP(fused_ln)
    .Inputs({"x", "scale", "bias"})
    .Outputs({"y", "mean", "invvar"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(FusedLn))
    .SetInferShapeFn(PD_INFER_SHAPE(FusedLnShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(FusedLnType));

PD_BUILD_GRAD_OP(fused_ln)
    .Inputs({"x", "scale", "bias", "mean", "invvar", paddle::Grad("y")})
    .Outputs({paddle::Grad("x"), paddle::Grad("scale"), paddle::Grad("bias")})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(FusedLnGrad))
    .SetInferShapeFn(PD_INFER_SHAPE(FusedLnGradShape));

PD_BUILD_OP(fused_rms_norm)
    .Inputs({"x", "scale"})
    .Outputs({"y", "invvar"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(FusedRmsNorm))
    .SetInferShapeFn(PD_INFER_SHAPE(FusedRmsNormShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(FusedRmsNormType));

PD_BUILD_GRAD_OP(fused_rms_norm)
    .Inputs({"x", "scale", "invvar", paddle::Grad("y")})
    .Outputs({paddle::Grad("x"), paddle::Grad("scale")})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(FusedRmsNormGrad))
    .SetInferShapeFn(PD_INFER_SHAPE(FusedRmsNormGradShape));
