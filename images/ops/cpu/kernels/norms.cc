// rms_norm and fused_bias_residual_layernorm in float16 and bfloat16; libpaddle has them in
// float32 only, and there without the quantization.
#include <cmath>

#include "../common/quantize.h"
#include "tensors.h"

namespace paddle_stacks {
namespace {

struct Norm {
  const char* op;
  bool is_centred;  // layer_norm subtracts the mean
  float epsilon;
  float residual_alpha;
  int begin_norm_axis;
  Quantizer quantizer;
};

// What the two operators have in common. y = norm(x + bias + alpha * residual), which is also
// stored in residual_out where there is a residual. Without a weight nothing is normalized: y is
// the sum. Statistics are left out where the output for them is null.
void Normalize(const CPUContext& context, const Norm& norm, const DenseTensor& x,
               const Optional& bias, const Optional& residual, const Optional& weight,
               const Optional& norm_bias, DenseTensor* out, DenseTensor* residual_out,
               DenseTensor* mean_out, DenseTensor* variance_out) {
  const auto& dims = x.dims();
  Require(0 <= norm.begin_norm_axis && norm.begin_norm_axis < dims.size(), [&] {
    return std::string(norm.op) + ": begin_norm_axis " + std::to_string(norm.begin_norm_axis) +
           " of [" + dims.to_str() + "]";
  });
  int64_t columns = 1;
  for (int i = norm.begin_norm_axis; i < dims.size(); ++i) columns *= dims[i];
  const int64_t rows = columns == 0 ? 0 : x.numel() / columns;
  const auto biases = Floats(bias, norm.op, columns);
  const auto gamma = Floats(weight, norm.op, columns);
  const auto beta = Floats(norm_bias, norm.op, columns);
  if (residual) {
    RequireLength(norm.op, residual->numel(), x.numel());
    RequireType(norm.op, *residual, x.dtype());
  }
  const bool is_quantized = norm.quantizer.scale > 0;
  if (is_quantized) norm.quantizer.Check(norm.op);
  const DataType dtype = is_quantized ? DataType::INT8 : x.dtype();
  const Output output(Allocate(context, out, dtype), dtype, norm.quantizer, {}, {});
  const bool has_sum = residual && residual_out != nullptr;
  const Writer sums = has_sum ? AllocateFloats(context, residual_out, x.dtype())
                              : Writer(nullptr, DataType::FLOAT32);
  const bool is_normalized = bool(weight);
  float* means = mean_out != nullptr ? context.Alloc<float>(mean_out) : nullptr;
  float* variances = variance_out != nullptr ? context.Alloc<float>(variance_out) : nullptr;
  const Reader input = Read(x);
  const Reader other = residual ? Read(*residual) : Reader(nullptr, DataType::FLOAT32);

#pragma omp parallel if (x.numel() > 1 << 14)
  {
    std::vector<float> row(columns), added(columns);
#pragma omp for
    for (int64_t r = 0; r < rows; ++r) {
      input.Copy(r * columns, columns, row.data());
      for (size_t i = 0; i < biases.size(); ++i) row[i] += biases[i];
      if (residual) {
        other.Copy(r * columns, columns, added.data());
        for (int64_t i = 0; i < columns; ++i) row[i] += norm.residual_alpha * added[i];
      }
      if (has_sum) sums.Row(r * columns, columns, row.data());
      double mean = 0, variance = 0;
      if (norm.is_centred) {
        for (float value : row) mean += value;
        mean /= columns;
      }
      for (float value : row) variance += (value - mean) * (value - mean);
      variance /= columns;
      const double inverse = 1 / std::sqrt(variance + norm.epsilon);
      if (is_normalized) {
        for (int64_t i = 0; i < columns; ++i) {
          row[i] = static_cast<float>((row[i] - mean) * inverse) * gamma[i];
        }
        for (size_t i = 0; i < beta.size(); ++i) row[i] += beta[i];
      }
      output.Row(r * columns, 0, columns, row.data());
      if (means != nullptr) means[r] = static_cast<float>(mean);
      if (variances != nullptr) {
        variances[r] = static_cast<float>(norm.is_centred ? variance : inverse);
      }
    }
  }
}

}  // namespace

template <typename T, typename Context>
void RmsNorm(const Context& context, const DenseTensor& x, const Optional& bias,
             const Optional& residual, const DenseTensor& norm_weight, const Optional& norm_bias,
             float epsilon, int begin_norm_axis, float quant_scale, int quant_round_type,
             float quant_max_bound, float quant_min_bound, DenseTensor* out,
             DenseTensor* residual_out, DenseTensor* inv_var) {
  const Norm norm{
      "rms_norm",      false,
      epsilon,         1.f,
      begin_norm_axis, {quant_scale, quant_round_type, quant_max_bound, quant_min_bound}};
  Normalize(context, norm, x, bias, residual, norm_weight, norm_bias, out, residual_out, nullptr,
            inv_var);
}

template <typename T, typename Context>
void BiasResidualLayerNorm(const Context& context, const DenseTensor& x, const Optional& bias,
                           const Optional& residual, const Optional& norm_weight,
                           const Optional& norm_bias, float epsilon, float residual_alpha,
                           int begin_norm_axis, float quant_scale, int quant_round_type,
                           float quant_max_bound, float quant_min_bound, DenseTensor* out,
                           DenseTensor* residual_out, DenseTensor* mean, DenseTensor* variance) {
  const Norm norm{"fused_bias_residual_layernorm",
                  true,
                  epsilon,
                  residual_alpha,
                  begin_norm_axis,
                  {quant_scale, quant_round_type, quant_max_bound, quant_min_bound}};
  Normalize(context, norm, x, bias, residual, norm_weight, norm_bias, out, residual_out, mean,
            variance);
}

}  // namespace paddle_stacks

PD_REGISTER_KERNEL(rms_norm, CPU, ALL_LAYOUT, paddle_stacks::RmsNorm, phi::dtype::float16,
                   phi::dtype::bfloat16) {}
PD_REGISTER_KERNEL(fused_bias_residual_layernorm, CPU, ALL_LAYOUT,
                   paddle_stacks::BiasResidualLayerNorm, phi::dtype::float16,
                   phi::dtype::bfloat16) {}
