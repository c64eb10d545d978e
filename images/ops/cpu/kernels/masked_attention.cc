// masked_multihead_attention: one new token of each sequence over a dense cache.
//
// cache_kv is [2, batch, kv_heads, length, head_dim]. The values are in that order; the keys of
// a head are stored as [head_dim / x, length, x] with x elements in 16 bytes.
#include "../common/attention.h"
#include "../common/quantize.h"
#include "masks.h"

namespace paddle_stacks {
namespace {

constexpr const char* kOp = "masked_multihead_attention: ";

struct Shape {
  int64_t batch, heads, kv_heads, length, head_dim, width;
};

Shape GetShape(const DenseTensor& x, const DenseTensor& cache) {
  const auto& dims = cache.dims();
  Require(x.dims().size() == 2 && dims.size() == 5 && dims[0] == 2 && dims[1] >= x.dims()[0], [&] {
    return std::string(kOp) + "expected x [batch, width] and cache_kv [2, batch, heads, length, " +
           "head size], got [" + x.dims().to_str() + "] and [" + dims.to_str() + "]";
  });
  Shape s{x.dims()[0], 0, dims[2], dims[3], dims[4], x.dims()[1]};
  s.heads = s.width / s.head_dim - 2 * s.kv_heads;
  Require(s.width % s.head_dim == 0 && s.heads > 0 && s.heads % s.kv_heads == 0, [&] {
    return std::string(kOp) + "a width of " + std::to_string(s.width) + " is no whole number of " +
           "query heads for " + std::to_string(s.kv_heads) + " key heads of size " +
           std::to_string(s.head_dim);
  });
  return s;
}

// Returns how many tokens of each sequence are in the cache.
std::vector<int64_t> GetLengths(const Shape& s, const Optional& sequence_lengths,
                                const Optional& src_mask) {
  std::vector<int64_t> lengths(s.batch);
  if (sequence_lengths) {
    RequireType("masked_multihead_attention: sequence_lengths", *sequence_lengths, DataType::INT32);
    RequireLength("masked_multihead_attention: sequence_lengths", sequence_lengths->numel(),
                  s.batch);
    std::copy_n(sequence_lengths->data<int>(), s.batch, lengths.begin());
  } else {
    Require(bool(src_mask), [] {
      return std::string(kOp) + "sequence_lengths or src_mask must say how long the cache is";
    });
    std::fill(lengths.begin(), lengths.end(), src_mask->dims()[src_mask->dims().size() - 1] - 1);
  }
  for (int64_t b = 0; b < s.batch; ++b) {
    Require(0 <= lengths[b] && lengths[b] < s.length, [&] {
      return std::string(kOp) + "sequence " + std::to_string(b) + ": token " +
             std::to_string(lengths[b] + 1) + " does not fit in a cache of " +
             std::to_string(s.length);
    });
  }
  return lengths;
}

// A head's part of the cache.
class DenseCache {
 public:
  DenseCache(const DenseTensor& cache, const Shape& s)
      : data_(const_cast<void*>(cache.data())),
        dtype_(cache.dtype()),
        s_(s),
        group_(16 / phi::SizeOf(cache.dtype())),
        values_(cache.numel() / 2) {}

  void StoreKey(int64_t head, int64_t position, const float* row) const {
    const Writer out(data_, dtype_);
    for (int64_t d = 0; d < s_.head_dim; d += group_) {
      out.Row(Key(head, position, d), group_, row + d);
    }
  }

  const float* LoadKey(int64_t head, int64_t position, float* scratch) const {
    const Reader in(data_, dtype_);
    for (int64_t d = 0; d < s_.head_dim; d += group_) {
      in.Copy(Key(head, position, d), group_, scratch + d);
    }
    return scratch;
  }

  void StoreValue(int64_t head, int64_t position, const float* row) const {
    Writer(data_, dtype_).Row(Value(head, position), s_.head_dim, row);
  }

  const float* LoadValue(int64_t head, int64_t position, float* scratch) const {
    return Reader(data_, dtype_).Row(Value(head, position), s_.head_dim, scratch);
  }

  int64_t group() const { return group_; }

 private:
  int64_t Key(int64_t head, int64_t position, int64_t d) const {
    return head * s_.length * s_.head_dim + (d / group_ * s_.length + position) * group_;
  }
  int64_t Value(int64_t head, int64_t position) const {
    return values_ + (head * s_.length + position) * s_.head_dim;
  }

  void* data_;
  DataType dtype_;
  const Shape& s_;
  int64_t group_;
  int64_t values_;
};

}  // namespace

template <typename T, typename Context>
void MaskedAttention(const Context& context, const DenseTensor& x, const DenseTensor& cache_kv,
                     const Optional& bias, const Optional& src_mask, const Optional& cum_offsets,
                     const Optional& sequence_lengths, const Optional& rotary_tensor,
                     const Optional& beam_cache_offset, const Optional& qkv_out_scale,
                     const Optional& out_shift, const Optional& out_smooth, int seq_len,
                     int rotary_emb_dims, bool use_neox_rotary_style,
                     const std::string& compute_dtype, float out_scale, int quant_round_type,
                     float quant_max_bound, float quant_min_bound, DenseTensor* out,
                     DenseTensor* cache_kv_out, DenseTensor* beam_cache_offset_out) {
  Require(!beam_cache_offset && !cum_offsets, [] {
    return std::string(kOp) + "beam_cache_offset and cum_offsets are not supported on a CPU";
  });
  const Shape s = GetShape(x, cache_kv);
  const auto lengths = GetLengths(s, sequence_lengths, src_mask);
  const DataType dtype = FloatType(x.dtype(), compute_dtype, "masked_multihead_attention");
  RequireType("masked_multihead_attention: cache_kv", cache_kv, dtype);
  Require(qkv_out_scale || x.dtype() != DataType::INT32,
          [] { return std::string(kOp) + "int32 input requires qkv_out_scale"; });
  Require(bool(out_shift) == bool(out_smooth),
          [] { return std::string(kOp) + "out_shift and out_smooth must be given together"; });
  const DenseCache cache(cache_kv, s);
  Require(s.head_dim % cache.group() == 0, [&] {
    return std::string(kOp) + "a head size of " + std::to_string(s.head_dim) +
           " is no multiple of " + std::to_string(cache.group());
  });
  const bool is_rotary = rotary_tensor && rotary_emb_dims > 0;
  int64_t rotary_rows = 0;
  if (is_rotary) {
    RequireType("masked_multihead_attention: rotary_tensor", *rotary_tensor, DataType::FLOAT32);
    rotary_rows = rotary_tensor->numel() / (2 * s.head_dim);
    Require(rotary_emb_dims == 1 && rotary_tensor->numel() == 2 * rotary_rows * s.head_dim &&
                (rotary_rows == 1 || rotary_rows == s.batch),
            [&] {
              return std::string(kOp) + "expected rotary_emb_dims 1 and a rotary_tensor of [2, " +
                     std::to_string(s.batch) + " or 1, 1, 1, " + std::to_string(s.head_dim) +
                     "], got " + std::to_string(rotary_emb_dims) + " and [" +
                     rotary_tensor->dims().to_str() + "]";
            });
  }
  const Mask mask(src_mask, "masked_multihead_attention: src_mask", s.batch, s.heads);
  for (int64_t length : lengths) mask.Cover(1, length + 1);

  const int64_t inner = s.heads * s.head_dim;
  const auto scales = Floats(qkv_out_scale, "masked_multihead_attention: qkv_out_scale", s.width);
  const auto biases = Floats(bias, "masked_multihead_attention: bias", s.width);
  const Quantizer quantizer{out_scale, quant_round_type, quant_max_bound, quant_min_bound};
  if (out_scale > 0) quantizer.Check("masked_multihead_attention");
  const DataType out_dtype = out_scale > 0 ? DataType::INT8 : dtype;
  const Optional none;
  void* data = Allocate(context, out, out_dtype);
  std::memset(data, 0, out->numel() * phi::SizeOf(out_dtype));  // rows that are finished
  const Output output(
      data, out_dtype, quantizer,
      Floats(out_scale > 0 ? out_shift : none, "masked_multihead_attention: out_shift", inner),
      Floats(out_scale > 0 ? out_smooth : none, "masked_multihead_attention: out_smooth", inner));

  const Reader input = Read(x);
  const float scale = 1.f / std::sqrt(static_cast<float>(s.head_dim));
  const int64_t group = s.heads / s.kv_heads;
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end()) + 1;
  std::vector<float> rows(s.batch * s.width);
  for (int64_t b = 0; b < s.batch; ++b) {
    if (sequence_lengths && lengths[b] == 0) continue;
    float* row = rows.data() + b * s.width;
    input.Copy(b * s.width, s.width, row);
    for (size_t i = 0; i < scales.size(); ++i) row[i] *= scales[i];
    for (size_t i = 0; i < biases.size(); ++i) row[i] += biases[i];
    if (is_rotary) {
      const float* cosines = rotary_tensor->data<float>() + (rotary_rows == 1 ? 0 : b) * s.head_dim;
      for (int64_t h = 0; h < s.heads + s.kv_heads; ++h) {
        Rotate(row + h * s.head_dim, cosines, cosines + rotary_rows * s.head_dim, s.head_dim,
               use_neox_rotary_style, false);
      }
    }
    RoundTo(dtype, row, s.width);
    for (int64_t h = 0; h < s.kv_heads; ++h) {
      const float* key = row + inner + h * s.head_dim;
      cache.StoreKey(b * s.kv_heads + h, lengths[b], key);
      cache.StoreValue(b * s.kv_heads + h, lengths[b], key + s.kv_heads * s.head_dim);
    }
  }
#pragma omp parallel if (s.batch * longest * inner > 1 << 17)
  {
    std::vector<float> scores(longest), masks(longest), scratch(s.head_dim), result(s.head_dim);
#pragma omp for collapse(2)
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t h = 0; h < s.heads; ++h) {
        if (sequence_lengths && lengths[b] == 0) continue;
        const int64_t head = b * s.kv_heads + h / group;
        mask.Row(b, h, 0, lengths[b] + 1, masks.data());
        Attend(
            rows.data() + b * s.width + h * s.head_dim, lengths[b] + 1, s.head_dim, scale,
            [&](int64_t i) { return cache.LoadKey(head, i, scratch.data()); },
            [&](int64_t i) { return cache.LoadValue(head, i, scratch.data()); },
            [&](int64_t i) { return masks[i]; }, scores.data(), result.data());
        output.Row(b * inner + h * s.head_dim, h * s.head_dim, s.head_dim, result.data());
      }
    }
  }
}

}  // namespace paddle_stacks

PD_REGISTER_KERNEL(masked_multihead_attention, CPU, ALL_LAYOUT, paddle_stacks::MaskedAttention,
                   float, phi::dtype::float16, phi::dtype::bfloat16, int32_t) {}
