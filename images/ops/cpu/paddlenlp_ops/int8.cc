// Between floats and int8, by columns.
#include "../common/quantize.h"
#include "tensors.h"

namespace paddle_stacks {
namespace {

DataType NamedType(const std::string& dtype) {
  if (dtype == "float32") return DataType::FLOAT32;
  if (dtype == "float16") return DataType::FLOAT16;
  if (dtype == "bfloat16") return DataType::BFLOAT16;
  Fail("dequant_int8: dtype must be float32, float16 or bfloat16, got " + dtype);
}

std::vector<float> Columns(const OptionalTensor& tensor, int64_t columns) {
  if (!tensor) return {};
  RequireLength("quant_int8: shift and smooth", tensor->numel(), columns);
  std::vector<float> values(columns);
  Read(*tensor).Copy(0, columns, values.data());
  return values;
}

}  // namespace

Tensors DequantInt8(const Tensor& input, const Tensor& out_scale, std::string dtype) {
  RequireType("dequant_int8: intput", input, DataType::INT32);
  Require(!input.shape().empty(), [] { return "dequant_int8: intput has no dimensions"; });
  const int64_t columns = input.shape().back();
  RequireLength("dequant_int8: out_scale", out_scale.numel(), columns);
  const float* scales = Rows<float>("dequant_int8: out_scale", out_scale, columns);
  Tensor out = Zeros(input.shape(), NamedType(dtype));
  const Reader in = Read(input);
  const Writer floats(out.data(), out.dtype());
  std::vector<float> row(columns);
  for (int64_t offset = 0; offset < input.numel(); offset += columns) {
    in.Copy(offset, columns, row.data());
    for (int64_t i = 0; i < columns; ++i) row[i] *= scales[i];
    floats.Row(offset, columns, row.data());
  }
  return {out};
}

std::vector<Dims> DequantInt8Shape(const Dims& input) { return {input}; }

std::vector<DataType> DequantInt8Type(const DataType& input, const DataType& out_scale,
                                      std::string dtype) {
  return {NamedType(dtype)};
}

Tensors QuantInt8(const Tensor& input, const OptionalTensor& shift, const OptionalTensor& smooth,
                  float scale, int round_type, float max_bound, float min_bound) {
  RequireFloating("quant_int8: intput", input);
  Require(!input.shape().empty(), [] { return "quant_int8: intput has no dimensions"; });
  Require(bool(shift) == bool(smooth),
          [] { return "quant_int8: shift and smooth must be given together"; });
  const int64_t columns = input.shape().back();
  const Quantizer quantizer{scale, round_type, max_bound, min_bound};
  quantizer.Check("quant_int8");
  Tensor out = Zeros(input.shape(), DataType::INT8);
  const Output output(out.data(), DataType::INT8, quantizer, Columns(shift, columns),
                      Columns(smooth, columns));
  const Reader in = Read(input);
  std::vector<float> row(columns);
  for (int64_t offset = 0; offset < input.numel(); offset += columns) {
    in.Copy(offset, columns, row.data());
    output.Row(offset, 0, columns, row.data());
  }
  return {out};
}

std::vector<Dims> QuantInt8Shape(const Dims& input, const paddle::optional<Dims>& shift,
                                 const paddle::optional<Dims>& smooth) {
  return {input};
}

std::vector<DataType> QuantInt8Type(const DataType& input, const paddle::optional<DataType>& shift,
                                    const paddle::optional<DataType>& smooth) {
  return {DataType::INT8};
}

}  // namespace paddle_stacks

using namespace paddle_stacks;  // NOLINT: the macros below want plain names

// "intput" is upstream's spelling.
PD_BUILD_OP(dequant_int8)
    .Inputs({"intput", "out_scale"})
    .Outputs({"output"})
    .Attrs({"dtype: std::string"})
    .SetKernelFn(PD_KERNEL(DequantInt8))
    .SetInferShapeFn(PD_INFER_SHAPE(DequantInt8Shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(DequantInt8Type));

PD_BUILD_OP(quant_int8)
    .Inputs({"intput", paddle::Optional("shift"), paddle::Optional("smooth")})
    .Outputs({"output"})
    .Attrs({"scale: float", "round_type: int", "max_bound: float", "min_bound: float"})
    .SetKernelFn(PD_KERNEL(QuantInt8))
    .SetInferShapeFn(PD_INFER_SHAPE(QuantInt8Shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(QuantInt8Type));
