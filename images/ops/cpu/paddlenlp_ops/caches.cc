// Prompts into a dense cache, [2, batch, heads, length, head_dim], of floats or of int8.
//
// The values are in that order; the keys of a head are [head_dim / x, length, x], with x
// elements of the model's type in 16 bytes.
#include "../common/quantize.h"
#include "tensors.h"

namespace paddle_stacks {
namespace {

struct Shape {
  int64_t batch, heads, tokens, head_dim, length, group;
  int64_t values;  // where the values begin in the cache

  int64_t Source(int64_t b, int64_t h, int64_t i) const {
    return ((b * heads + h) * tokens + i) * head_dim;
  }
  int64_t Key(int64_t b, int64_t h, int64_t i, int64_t d) const {
    return (b * heads + h) * length * head_dim + (d / group * length + i) * group;
  }
  int64_t Value(int64_t b, int64_t h, int64_t i) const {
    return values + ((b * heads + h) * length + i) * head_dim;
  }
};

Shape GetShape(const char* op, const Tensor& k, const Tensor& v, const Tensor& cache) {
  RequireRank(op, k, 4);
  RequireRank(op, cache, 5);
  RequireFloating(op, k);
  RequireType(op, v, k.dtype());
  const Dims from = k.shape(), to = cache.shape();
  const int64_t group = 16 / phi::SizeOf(k.dtype());
  Require(v.shape() == from && to[0] == 2 && to[1] >= from[0] && to[2] == from[1] &&
              to[4] == from[3] && from[3] % group == 0,
          [&] {
            return std::string(op) + ": keys " + ToString(from) + ", values " +
                   ToString(v.shape()) + " and cache " + ToString(to) +
                   " do not match (head size: a multiple of " + std::to_string(group) + ")";
          });
  return {from[0], from[1], from[2], from[3], to[3], group, cache.numel() / 2};
}

uint8_t Quantize(float value, float scale) {
  const float rounded = std::round(value * scale);
  return static_cast<uint8_t>(std::min(std::max(rounded, -127.f), 127.f) + 128.f);
}

// Returns 127 over the greatest absolute value of a head.
float HeadScale(const Reader& in, int64_t offset, int64_t n) {
  std::vector<float> values(n);
  in.Copy(offset, n, values.data());
  float largest = 0;
  for (float value : values) largest = std::max(largest, std::fabs(value));
  return 127.f / (largest == 0 ? 1.f : largest);
}

}  // namespace

void WriteCacheKv(const Tensor& input_k, const Tensor& input_v, const Tensor& cache_kv,
                  const Tensor& sequence_lengths) {
  const char* op = "write_cache_kv";
  const Shape s = GetShape(op, input_k, input_v, cache_kv);
  RequireType(op, cache_kv, input_k.dtype());
  const int* lengths = Rows<int>(op, sequence_lengths, s.batch);
  for (int64_t b = 0; b < s.batch; ++b) {
    Require(0 <= lengths[b] && lengths[b] <= std::min(s.tokens, s.length), [&] {
      return std::string(op) + ": sequence " + std::to_string(b) + " has " +
             std::to_string(lengths[b]) + " tokens of " + std::to_string(s.tokens) +
             ", the cache holds " + std::to_string(s.length);
    });
    for (int64_t h = 0; h < s.heads; ++h) {
      for (int64_t i = 0; i < lengths[b]; ++i) {
        const int64_t source = s.Source(b, h, i);
        for (int64_t d = 0; d < s.head_dim; d += s.group) {
          CopyRow(input_k, source + d, cache_kv, s.Key(b, h, i, d), s.group);
        }
        CopyRow(input_v, source, cache_kv, s.Value(b, h, i), s.head_dim);
      }
    }
  }
}

// Writes all tokens, padding too, as int8 + 128, and the scales of each head.
void WriteInt8CacheKv(const Tensor& input_k, const Tensor& input_v, const Tensor& cache_kv,
                      const Tensor& k_quant_scales, const Tensor& v_quant_scales,
                      const Tensor& k_dequant_scales, const Tensor& v_dequant_scales) {
  const char* op = "write_int8_cache_kv";
  const Shape s = GetShape(op, input_k, input_v, cache_kv);
  RequireType(op, cache_kv, DataType::UINT8);
  Require(s.tokens <= s.length, [&] {
    return std::string(op) + ": " + std::to_string(s.tokens) + " tokens, the cache holds " +
           std::to_string(s.length);
  });
  const int64_t heads = s.batch * s.heads;
  float* k_quant = MutableRows<float>(op, k_quant_scales, heads);
  float* v_quant = MutableRows<float>(op, v_quant_scales, heads);
  float* k_dequant = MutableRows<float>(op, k_dequant_scales, heads);
  float* v_dequant = MutableRows<float>(op, v_dequant_scales, heads);
  uint8_t* cache = Mutable<uint8_t>(cache_kv);
  const Reader keys = Read(input_k), values = Read(input_v);
  std::vector<float> row(s.head_dim);
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t head = b * s.heads + h;
      k_quant[head] = HeadScale(keys, s.Source(b, h, 0), s.tokens * s.head_dim);
      v_quant[head] = HeadScale(values, s.Source(b, h, 0), s.tokens * s.head_dim);
      k_dequant[head] = 1.f / k_quant[head];
      v_dequant[head] = 1.f / v_quant[head];
      for (int64_t i = 0; i < s.tokens; ++i) {
        keys.Copy(s.Source(b, h, i), s.head_dim, row.data());
        for (int64_t d = 0; d < s.head_dim; ++d) {
          cache[s.Key(b, h, i, d) + d % s.group] = Quantize(row[d], k_quant[head]);
        }
        values.Copy(s.Source(b, h, i), s.head_dim, row.data());
        for (int64_t d = 0; d < s.head_dim; ++d) {
          cache[s.Value(b, h, i) + d] = Quantize(row[d], v_quant[head]);
        }
      }
    }
  }
}

}  // namespace paddle_stacks

using namespace paddle_stacks;  // NOLINT: the macros below want plain names

PD_BUILD_OP(write_cache_kv)
    .Inputs({"input_k", "input_v", "cache_kv", "sequence_lengths"})
    .Outputs({"cache_kv_out"})
    .SetInplaceMap({{"cache_kv", "cache_kv_out"}})
    .SetKernelFn(PD_KERNEL(WriteCacheKv));

PD_BUILD_OP(write_int8_cache_kv)
    .Inputs({"input_k", "input_v", "cache_kv", "k_quant_scales", "v_quant_scales",
             "q_dequant_scales", "v_dequant_scales"})
    .Outputs({"cache_kv_out"})
    .SetInplaceMap({{"cache_kv", "cache_kv_out"}})
    .SetKernelFn(PD_KERNEL(WriteInt8CacheKv));
