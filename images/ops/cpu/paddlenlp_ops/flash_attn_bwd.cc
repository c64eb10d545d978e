// flash_attn_bwd: the gradient of attention, recomputed from the queries, keys and values.
#include <cmath>

#include "../common/attention.h"
#include "tensors.h"

namespace paddle_stacks {
namespace {

// A [batch, length, heads, head_dim] tensor, as floats.
struct Heads {
  explicit Heads(const Tensor& tensor) : dims(tensor.shape()), values(tensor.numel()) {
    Read(tensor).Copy(0, tensor.numel(), values.data());
  }
  explicit Heads(const Dims& dims) : dims(dims), values(dims[0] * dims[1] * dims[2] * dims[3]) {}

  float* Row(int64_t b, int64_t i, int64_t h) {
    return values.data() + ((b * dims[1] + i) * dims[2] + h) * dims[3];
  }

  Tensor ToTensor(DataType dtype) const {
    Tensor tensor = Zeros(dims, dtype);
    Writer(tensor.data(), dtype).Row(0, tensor.numel(), values.data());
    return tensor;
  }

  Dims dims;
  std::vector<float> values;
};

}  // namespace

// `out`, `softmax_lse` and `seed_offset` are what the forward pass left; nothing of them is
// needed without dropout.
Tensors FlashAttnBwd(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                     const Tensor& softmax_lse, const Tensor& seed_offset,
                     const OptionalTensor& attn_mask, const Tensor& out_grad, float dropout,
                     bool causal) {
  const char* op = "flash_attn_bwd";
  Require(dropout == 0, [&] { return std::string(op) + ": dropout must be 0 on a CPU"; });
  for (const Tensor* tensor : {&q, &k, &v, &out_grad}) RequireRank(op, *tensor, 4);
  const Dims dims = q.shape(), kv = k.shape();
  Require(v.shape() == kv && out_grad.shape() == dims && kv[0] == dims[0] && kv[3] == dims[3] &&
              kv[2] > 0 && dims[2] % kv[2] == 0,
          [&] {
            return std::string(op) + ": shapes " + ToString(dims) + ", " + ToString(kv) + ", " +
                   ToString(v.shape()) + " and " + ToString(out_grad.shape()) + " do not match";
          });
  const int64_t batch = dims[0], queries = dims[1], heads = dims[2], size = dims[3];
  const int64_t keys = kv[1], group = heads / kv[2];
  Dims mask{1, 1, queries, keys};
  if (attn_mask) {
    mask = attn_mask->shape();
    Require(mask.size() == 4 && (mask[0] == 1 || mask[0] == batch) &&
                (mask[1] == 1 || mask[1] == heads) && mask[2] == queries && mask[3] == keys,
            [&] { return std::string(op) + ": attn_mask of " + ToString(mask); });
  }

  const Simd& simd = Simd::Get();
  const float scale = 1.f / std::sqrt(static_cast<float>(size));
  Heads query(q), key(k), value(v), upstream(out_grad);
  Heads d_query(dims), d_key(kv), d_value(kv);
  std::vector<float> weights(keys), bias(keys), d_weights(keys);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < queries; ++i) {
        // The last query sees all keys.
        const int64_t seen = causal ? std::max<int64_t>(keys - queries + i + 1, 0) : keys;
        if (attn_mask) {
          const int64_t row = (mask[0] == 1 ? 0 : b) * mask[1] + (mask[1] == 1 ? 0 : h);
          Read(*attn_mask).Copy((row * queries + i) * keys, keys, bias.data());
        }
        for (int64_t j = 0; j < seen; ++j) {
          weights[j] =
              simd.dot(query.Row(b, i, h), key.Row(b, j, h / group), size) * scale + bias[j];
        }
        Softmax(weights.data(), seen);
        float mean = 0;
        for (int64_t j = 0; j < seen; ++j) {
          d_weights[j] = simd.dot(upstream.Row(b, i, h), value.Row(b, j, h / group), size);
          mean += d_weights[j] * weights[j];
        }
        for (int64_t j = 0; j < seen; ++j) {
          const float d_score = weights[j] * (d_weights[j] - mean) * scale;
          simd.axpy(d_score, key.Row(b, j, h / group), d_query.Row(b, i, h), size);
          simd.axpy(d_score, query.Row(b, i, h), d_key.Row(b, j, h / group), size);
          simd.axpy(weights[j], upstream.Row(b, i, h), d_value.Row(b, j, h / group), size);
        }
      }
    }
  }
  return {d_query.ToTensor(q.dtype()), d_key.ToTensor(k.dtype()), d_value.ToTensor(v.dtype())};
}

std::vector<Dims> FlashAttnBwdShape(Dims q, Dims k, Dims v) { return {q, k, v}; }

std::vector<DataType> FlashAttnBwdType(DataType q, DataType k, DataType v) { return {q, k, v}; }

}  // namespace paddle_stacks

using namespace paddle_stacks;  // NOLINT: the macros below want plain names

PD_BUILD_OP(flash_attn_bwd)
    .Inputs({"q", "k", "v", "out", "softmax_lse", "seed_offset", "attn_mask", "out_grad"})
    .Outputs({"q_grad", "k_grad", "v_grad"})
    .Attrs({"dropout: float", "causal: bool"})
    .SetKernelFn(PD_KERNEL(FlashAttnBwd))
    .SetInferShapeFn(PD_INFER_SHAPE(FlashAttnBwdShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(FlashAttnBwdType));
