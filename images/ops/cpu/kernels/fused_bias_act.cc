// fused_bias_act: dequantize, add the bias, activate (gated or not), quantize.
#include <cmath>

#include "../common/quantize.h"
#include "tensors.h"

namespace paddle_stacks {
namespace {

float Gelu(float x) { return 0.5f * x * (1.f + std::erf(x * 0.70710678118654752f)); }
float Silu(float x) { return x / (1.f + std::exp(-x)); }

using Activation = float (*)(float);

Activation Find(const std::string& method) {
  if (method == "gelu" || method == "geglu") return Gelu;
  if (method == "swiglu") return Silu;
  Fail("fused_bias_act: act_method must be gelu, geglu or swiglu, got " + method);
}

}  // namespace

template <typename T, typename Context>
void FusedBiasAct(const Context& context, const DenseTensor& x, const Optional& bias,
                  const Optional& dequant_scales, const Optional& shift, const Optional& smooth,
                  const std::string& act_method, const std::string& compute_dtype,
                  float quant_scale, int quant_round_type, float quant_max_bound,
                  float quant_min_bound, DenseTensor* out) {
  const bool is_gated = act_method == "swiglu" || act_method == "geglu";
  const Activation activate = Find(act_method);
  const int64_t columns = x.dims()[x.dims().size() - 1];
  Require(columns > 0 && (!is_gated || columns % 2 == 0), [&] {
    return "fused_bias_act: " + act_method + " of " + std::to_string(columns) + " columns";
  });
  const int64_t rows = x.numel() / columns;
  const int64_t width = is_gated ? columns / 2 : columns;
  Require(dequant_scales || x.dtype() != DataType::INT32,
          [] { return "fused_bias_act: int32 input requires dequant_scales"; });
  Require(bool(shift) == bool(smooth),
          [] { return "fused_bias_act: shift and smooth must be given together"; });

  const auto scales = Floats(dequant_scales, "fused_bias_act: dequant_scales", columns);
  const auto biases = Floats(bias, "fused_bias_act: bias", columns);
  const bool is_quantized = quant_scale > 0;
  const Quantizer quantizer{quant_scale, quant_round_type, quant_max_bound, quant_min_bound};
  if (is_quantized) quantizer.Check("fused_bias_act");
  const DataType dtype =
      is_quantized ? DataType::INT8 : FloatType(x.dtype(), compute_dtype, "fused_bias_act");
  // Shift and smooth belong to the quantization.
  const Optional none;
  const Output output(Allocate(context, out, dtype), dtype, quantizer,
                      Floats(is_quantized ? shift : none, "fused_bias_act: shift", width),
                      Floats(is_quantized ? smooth : none, "fused_bias_act: smooth", width));
  const Reader input = Read(x);

#pragma omp parallel if (rows * columns > 1 << 14)
  {
    std::vector<float> row(columns);
#pragma omp for
    for (int64_t r = 0; r < rows; ++r) {
      input.Copy(r * columns, columns, row.data());
      for (size_t i = 0; i < scales.size(); ++i) row[i] *= scales[i];
      for (size_t i = 0; i < biases.size(); ++i) row[i] += biases[i];
      for (int64_t i = 0; i < width; ++i) {
        row[i] = activate(row[i]) * (is_gated ? row[width + i] : 1.f);
      }
      output.Row(r * width, 0, width, row.data());
    }
  }
}

}  // namespace paddle_stacks

PD_REGISTER_KERNEL(fused_bias_act, CPU, ALL_LAYOUT, paddle_stacks::FusedBiasAct, float,
                   phi::dtype::float16, phi::dtype::bfloat16, int32_t) {}
