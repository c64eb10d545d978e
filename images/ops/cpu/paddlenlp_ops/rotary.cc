// The rotary table of a dense cache's attention, and its use on padded queries and keys.
#include <cmath>

#include "../common/attention.h"
#include "tensors.h"

namespace paddle_stacks {

// Cosines, then sines, of [batch, 1, length, head_dim]. head_dim is the length of
// head_dim_shape_tensor, whose values are of no matter.
Tensors FusedGetRotaryEmbedding(const Tensor& input_ids, const Tensor& position_ids,
                                const Tensor& head_dim_shape_tensor, int prompt_num, float theta,
                                bool use_neox) {
  const char* op = "fused_get_rotary_embedding";
  RequireRank(op, input_ids, 2);
  RequireRank(op, position_ids, 2);
  const int64_t batch = position_ids.shape()[0], length = input_ids.shape()[1];
  const int64_t stride = position_ids.shape()[1], head_dim = head_dim_shape_tensor.shape()[0];
  Require(prompt_num >= 0 && length + prompt_num <= stride && head_dim % 2 == 0, [&] {
    return std::string(op) + ": " + std::to_string(length) + " tokens after " +
           std::to_string(prompt_num) + " of a prompt, head size " + std::to_string(head_dim) +
           " (must be even), position_ids has " + std::to_string(stride) + " columns";
  });
  const int64_t* positions = Rows<int64_t>(op, position_ids, batch * stride);
  Tensor out = Zeros({2, batch, 1, length, head_dim}, DataType::FLOAT32);
  float* cosines = out.data<float>();
  float* sines = cosines + batch * length * head_dim;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < length; ++i) {
      const float position = static_cast<float>(positions[b * stride + prompt_num + i]);
      for (int64_t h = 0; h < head_dim / 2; ++h) {
        const float exponent = -static_cast<float>(2 * h) / static_cast<float>(head_dim);
        const float angle = position * std::pow(theta, exponent);
        const int64_t row = (b * length + i) * head_dim;
        const int64_t left = row + (use_neox ? h : 2 * h);
        const int64_t right = row + (use_neox ? h + head_dim / 2 : 2 * h + 1);
        cosines[left] = cosines[right] = std::cos(angle);
        sines[left] = sines[right] = std::sin(angle);
      }
    }
  }
  return {out};
}

std::vector<Dims> FusedGetRotaryEmbeddingShape(const Dims& input_ids, const Dims& position_ids,
                                               const Dims& head_dim_shape_tensor) {
  return {{2, position_ids[0], 1, input_ids[1], head_dim_shape_tensor[0]}};
}

std::vector<DataType> FusedGetRotaryEmbeddingType(const DataType& input_ids,
                                                  const DataType& position_ids,
                                                  const DataType& head_dim_shape_tensor) {
  return {DataType::FLOAT32};
}

namespace {

// Rotates [batch, heads, length, head_dim] in place, up to each sequence's length.
void RotateAll(const Tensor& x, const Tensor& rotary_emb, const int* lengths, int64_t dims,
               bool is_neox) {
  const int64_t batch = x.shape()[0], heads = x.shape()[1];
  const int64_t length = x.shape()[2], size = x.shape()[3];
  // With two position ids for a token, each rotates half of a head.
  const int64_t part = size / dims;
  const float* cosines = rotary_emb.data<float>();
  const float* sines = cosines + rotary_emb.numel() / 2;
  const Reader in = Read(x);
  const Writer out(MutableData(x), x.dtype());
  std::vector<float> head(size);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < lengths[b]; ++i) {
        const int64_t offset = ((b * heads + h) * length + i) * size;
        in.Copy(offset, size, head.data());
        for (int64_t d = 0; d < dims; ++d) {
          const int64_t row = (b * length + i) * size + d * part;
          Rotate(head.data() + d * part, cosines + row, sines + row, part, is_neox, false);
        }
        out.Row(offset, size, head.data());
      }
    }
  }
}

}  // namespace

void EncodeRotaryQk(const Tensor& q, const Tensor& kv, const Tensor& rotary_emb,
                    const Tensor& seq_lens, int rotary_emb_dims, bool use_neox) {
  const char* op = "encode_rotary_qk";
  RequireRank(op, q, 4);
  RequireRank(op, kv, 4);
  RequireType(op, rotary_emb, DataType::FLOAT32);
  const int64_t batch = q.shape()[0], length = q.shape()[2], size = q.shape()[3];
  Require(kv.shape()[0] == batch && kv.shape()[2] == length && kv.shape()[3] == size &&
              rotary_emb.numel() == 2 * batch * length * size,
          [&] {
            return std::string(op) + ": shapes " + ToString(q.shape()) + ", " +
                   ToString(kv.shape()) + " and " + ToString(rotary_emb.shape()) + " do not match";
          });
  Require(rotary_emb_dims > 0 && size % (2 * rotary_emb_dims) == 0, [&] {
    return std::string(op) + ": rotary_emb_dims " + std::to_string(rotary_emb_dims) +
           " for heads of " + std::to_string(size);
  });
  const int* lengths = Rows<int>(op, seq_lens, batch);
  for (int64_t b = 0; b < batch; ++b) {
    Require(0 <= lengths[b] && lengths[b] <= length, [&] {
      return std::string(op) + ": sequence " + std::to_string(b) + " has " +
             std::to_string(lengths[b]) + " tokens of " + std::to_string(length);
    });
  }
  RotateAll(q, rotary_emb, lengths, rotary_emb_dims, use_neox);
  RotateAll(kv, rotary_emb, lengths, rotary_emb_dims, use_neox);
}

}  // namespace paddle_stacks

using namespace paddle_stacks;  // NOLINT: the macros below want plain names

PD_BUILD_OP(fused_get_rotary_embedding)
    .Inputs({"input_ids", "position_ids", "head_dim_shape_tensor"})
    .Outputs({"rotary_embedding"})
    .Attrs({"prompt_num: int", "theta: float", "use_neox: bool"})
    .SetKernelFn(PD_KERNEL(FusedGetRotaryEmbedding))
    .SetInferShapeFn(PD_INFER_SHAPE(FusedGetRotaryEmbeddingShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(FusedGetRotaryEmbeddingType));

PD_BUILD_OP(encode_rotary_qk)
    .Inputs({"q", "kv", "rotary_emb", "seq_lens"})
    .Outputs({"rotary_q_out", "rotary_kv_out"})
    .SetInplaceMap({{"q", "rotary_q_out"}, {"kv", "rotary_kv_out"}})
    .Attrs({"rotary_emb_dims: int", "use_neox: bool"})
    .SetKernelFn(PD_KERNEL(EncodeRotaryQk));
