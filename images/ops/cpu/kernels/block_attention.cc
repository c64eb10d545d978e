// block_multihead_attention and blha_get_max_len: attention over a cache in blocks.
//
// Sequence b has seq_lens_this_time[b] tokens in this step, from row cu_seqlens_q[b] of qkv on:
// its prompt if seq_lens_encoder[b] > 0, else what follows seq_lens_decoder[b] tokens that are
// in the cache. Position p of a sequence is in block block_tables[b, p / block_size].
#include "../common/attention.h"
#include "../common/quantize.h"
#include "masks.h"

namespace paddle_stacks {
namespace {

constexpr const char* kOp = "block_multihead_attention: ";

// What one call has for all sequences.
struct Shape {
  int64_t tokens, heads, kv_heads, head_dim, width;
  int64_t batch, blocks, block_size, blocks_per_sequence;
  int64_t pre_length;  // of the pre-caches, which come before a prompt
};

// One sequence of the step.
struct Sequence {
  int64_t index;
  int64_t first_row;  // in qkv
  int64_t length;     // tokens of this step
  int64_t past;       // tokens before, without the pre-cache
  bool is_prompt;
};

const int* Lengths(const DenseTensor& tensor, const char* what, int64_t length) {
  RequireType(what, tensor, DataType::INT32);
  Require(tensor.numel() >= length, [&] {
    return std::string(what) + ": expected at least " + std::to_string(length) + " elements, got " +
           std::to_string(tensor.numel());
  });
  return tensor.data<int>();
}

Shape GetShape(const DenseTensor& qkv, const DenseTensor& key_cache, const DenseTensor& value_cache,
               const DenseTensor& cum_offsets, const DenseTensor& block_tables,
               const Optional& pre_keys, const Optional& pre_values) {
  Require(qkv.dims().size() == 2 && key_cache.dims().size() == 4 && block_tables.dims().size() == 2,
          [&] {
            return std::string(kOp) + "expected qkv [tokens, width], key_cache [blocks, heads, " +
                   "block size, head size] and block_tables [batch, blocks], got [" +
                   qkv.dims().to_str() + "], [" + key_cache.dims().to_str() + "] and [" +
                   block_tables.dims().to_str() + "]";
          });
  Shape s{};
  s.tokens = qkv.dims()[0];
  s.width = qkv.dims()[1];
  s.blocks = key_cache.dims()[0];
  s.kv_heads = key_cache.dims()[1];
  s.block_size = key_cache.dims()[2];
  s.head_dim = key_cache.dims()[3];
  s.batch = cum_offsets.dims()[0];
  s.blocks_per_sequence = block_tables.dims()[1];
  s.heads = s.width / s.head_dim - 2 * s.kv_heads;
  Require(s.width % s.head_dim == 0 && s.heads > 0 && s.heads % s.kv_heads == 0, [&] {
    return std::string(kOp) + "a width of " + std::to_string(s.width) + " is no whole number of " +
           "query heads for " + std::to_string(s.kv_heads) + " key heads of size " +
           std::to_string(s.head_dim);
  });
  RequireShape("block_multihead_attention: value_cache", value_cache,
               {s.blocks, s.kv_heads, s.block_size, s.head_dim});
  Require(block_tables.dims()[0] >= s.batch, [&] {
    return std::string(kOp) + "block_tables has " + std::to_string(block_tables.dims()[0]) +
           " rows for a batch of " + std::to_string(s.batch);
  });
  RequireType("block_multihead_attention: block_tables", block_tables, DataType::INT32);
  Require(bool(pre_keys) == bool(pre_values), [] {
    return std::string(kOp) + "pre_key_cache and pre_value_cache must be given together";
  });
  if (pre_keys) {
    Require(pre_keys->dims().size() == 4 && pre_keys->dims()[0] >= s.batch &&
                pre_keys->dims()[1] == s.kv_heads && pre_keys->dims()[3] == s.head_dim &&
                pre_keys->dims() == pre_values->dims(),
            [&] {
              return std::string(kOp) + "expected pre-caches of [" + std::to_string(s.batch) +
                     ", " + std::to_string(s.kv_heads) + ", length, " + std::to_string(s.head_dim) +
                     "], got [" + pre_keys->dims().to_str() + "] and [" +
                     pre_values->dims().to_str() + "]";
            });
    s.pre_length = pre_keys->dims()[2];
  }
  return s;
}

// Returns the sequences that have tokens in this step, each checked against the rows of qkv
// and the blocks of the cache.
std::vector<Sequence> GetSequences(const Shape& s, const int* encoder, const int* decoder,
                                   const int* now, const int* first_rows, const int* tables) {
  std::vector<Sequence> sequences;
  for (int64_t b = 0; b < s.batch; ++b) {
    const int64_t length = now[b];
    if (length == 0) continue;
    const bool is_prompt = encoder[b] > 0;
    const int64_t past = is_prompt ? 0 : decoder[b];
    const int64_t first = first_rows[b];
    const auto of = [&] { return std::string(kOp) + "sequence " + std::to_string(b) + ": "; };
    Require(length > 0 && past >= 0 && first >= 0 && first + length <= s.tokens, [&] {
      return of() + std::to_string(length) + " tokens from row " + std::to_string(first) +
             " on, after " + std::to_string(past) + ", but qkv has " + std::to_string(s.tokens) +
             " rows";
    });
    const int64_t total = s.pre_length + past + length;
    Require(total <= s.blocks_per_sequence * s.block_size, [&] {
      return of() + std::to_string(total) + " tokens do not fit in " +
             std::to_string(s.blocks_per_sequence) + " blocks of " + std::to_string(s.block_size);
    });
    for (int64_t i = 0; i * s.block_size < total; ++i) {
      const int block = tables[b * s.blocks_per_sequence + i];
      Require(0 <= block && block < s.blocks, [&] {
        return of() + "block_tables names block " + std::to_string(block) + " of " +
               std::to_string(s.blocks) + " for positions from " +
               std::to_string(i * s.block_size) + " on";
      });
    }
    sequences.push_back({b, first, length, past, is_prompt});
  }
  return sequences;
}

// The rotary table: [2, batch or 1, positions, 1, head_dim or head_dim / 2].
class RotaryTable {
 public:
  RotaryTable(const Optional& table, const Shape& s, bool is_neox) : is_neox_(is_neox) {
    if (!table) return;
    RequireType("block_multihead_attention: rope_emb", *table, DataType::FLOAT32);
    const auto& dims = table->dims();
    Require(dims.size() == 5 && dims[0] == 2 && (dims[1] == 1 || dims[1] >= s.batch) &&
                dims[3] == 1 && (dims[4] == s.head_dim || 2 * dims[4] == s.head_dim),
            [&] {
              return std::string(kOp) + "expected rope_emb of [2, batch or 1, positions, 1, " +
                     "head size or half of it], got [" + dims.to_str() + "]";
            });
    batch_ = dims[1];
    positions_ = dims[2];
    width_ = dims[4];
    cosines_ = table->data<float>();
    sines_ = cosines_ + table->numel() / 2;
  }

  void Cover(const Sequence& q) const {
    Require(cosines_ == nullptr || q.past + q.length <= positions_, [&] {
      return std::string(kOp) + "sequence " + std::to_string(q.index) + " has " +
             std::to_string(q.past + q.length) + " tokens; rope_emb has " +
             std::to_string(positions_) + " positions";
    });
  }

  void Apply(int64_t sequence, int64_t position, int64_t heads, int64_t head_dim,
             float* row) const {
    if (cosines_ == nullptr) return;
    const int64_t offset = ((batch_ == 1 ? 0 : sequence) * positions_ + position) * width_;
    for (int64_t h = 0; h < heads; ++h) {
      Rotate(row + h * head_dim, cosines_ + offset, sines_ + offset, head_dim, is_neox_,
             width_ != head_dim);
    }
  }

 private:
  bool is_neox_;
  int64_t batch_ = 1, positions_ = 0, width_ = 0;
  const float* cosines_ = nullptr;
  const float* sines_ = nullptr;
};

// The scales of an int8 cache: one for each head, or for each sequence and head if they are
// computed here, from the prompt.
class CacheScales {
 public:
  CacheScales(const Optional& quant, const Optional& dequant, const char* what, const Shape& s,
              bool is_dynamic)
      : kv_heads_(s.kv_heads), is_dynamic_(is_dynamic) {
    Require(quant && dequant, [&] {
      return std::string(kOp) + "an int8 cache requires " + what + "_quant_scales and " + what +
             "_dequant_scales";
    });
    for (const Optional* scales : {&quant, &dequant}) {
      RequireType((std::string(kOp) + what + " scales").c_str(), **scales, DataType::FLOAT32);
      const int64_t length = (*scales)->numel();
      Require(is_dynamic ? length >= s.batch * s.kv_heads : length == s.kv_heads, [&] {
        return std::string(kOp) + what + " scales: expected " +
               std::to_string(is_dynamic ? s.batch * s.kv_heads : s.kv_heads) + ", got " +
               std::to_string(length);
      });
    }
    quant_ = Mutable<float>(*quant);
    dequant_ = Mutable<float>(*dequant);
  }

  void Set(int64_t sequence, int64_t head, float largest, float bound) const {
    if (largest == 0) largest = 1;  // all are zero, whatever the scale
    quant_[Index(sequence, head)] = bound / largest;
    dequant_[Index(sequence, head)] = largest / bound;
  }

  float quant(int64_t sequence, int64_t head) const { return quant_[Index(sequence, head)]; }
  float dequant(int64_t sequence, int64_t head) const { return dequant_[Index(sequence, head)]; }

 private:
  int64_t Index(int64_t sequence, int64_t head) const {
    return (is_dynamic_ ? sequence * kv_heads_ : 0) + head;
  }

  int64_t kv_heads_;
  bool is_dynamic_;
  float* quant_;
  float* dequant_;
};

// The keys or the values: [blocks, kv_heads, block_size, head_dim] of floats, or of uint8 that
// hold an int8 + 128.
class BlockCache {
 public:
  BlockCache(const DenseTensor& cache, const DenseTensor& tables, const Shape& s,
             const Quantizer& quantizer, const CacheScales* scales)
      : data_(const_cast<void*>(cache.data())),
        dtype_(cache.dtype()),
        tables_(tables.data<int>()),
        s_(s),
        quantizer_(quantizer),
        scales_(scales) {}

  void Store(int64_t sequence, int64_t head, int64_t position, const float* row) const {
    const int64_t offset = Offset(sequence, head, position);
    if (scales_ == nullptr) {
      Writer(data_, dtype_).Row(offset, s_.head_dim, row);
      return;
    }
    uint8_t* out = static_cast<uint8_t*>(data_) + offset;
    const float scale = scales_->quant(sequence, head);
    for (int64_t i = 0; i < s_.head_dim; ++i) {
      const float rounded = RoundHalf(row[i] * scale, quantizer_.round_type);
      out[i] = static_cast<uint8_t>(quantizer_.Clamp(rounded) + 128.f);
    }
  }

  const float* Load(int64_t sequence, int64_t head, int64_t position, float* scratch) const {
    const int64_t offset = Offset(sequence, head, position);
    if (scales_ == nullptr) return Reader(data_, dtype_).Row(offset, s_.head_dim, scratch);
    const uint8_t* row = static_cast<const uint8_t*>(data_) + offset;
    const float scale = scales_->dequant(sequence, head);
    for (int64_t i = 0; i < s_.head_dim; ++i) {
      scratch[i] = (static_cast<float>(row[i]) - 128.f) * scale;
    }
    return scratch;
  }

 private:
  int64_t Offset(int64_t sequence, int64_t head, int64_t position) const {
    const int64_t block = tables_[sequence * s_.blocks_per_sequence + position / s_.block_size];
    return ((block * s_.kv_heads + head) * s_.block_size + position % s_.block_size) * s_.head_dim;
  }

  void* data_;
  DataType dtype_;
  const int* tables_;
  const Shape& s_;
  Quantizer quantizer_;
  const CacheScales* scales_;
};

// The keys or the values that a sequence's queries see: the pre-cache, what is in the block
// cache, and the exact rows of this step.
class History {
 public:
  // `rows` are this step's rows of qkv, `column` is where the kind begins in them.
  History(const Shape& s, const Sequence& q, const float* rows, int64_t column,
          const BlockCache& cache, const Optional& pre_cache)
      : s_(s),
        q_(q),
        rows_(rows),
        column_(column),
        cache_(cache),
        pre_(pre_cache ? Read(*pre_cache) : Reader(nullptr, DataType::FLOAT32)) {}

  const float* Own(int64_t head, int64_t token) const {
    return rows_ + token * s_.width + column_ + head * s_.head_dim;
  }

  const float* Pre(int64_t head, int64_t position, float* scratch) const {
    const int64_t row = (q_.index * s_.kv_heads + head) * s_.pre_length + position;
    return pre_.Row(row * s_.head_dim, s_.head_dim, scratch);
  }

  const float* Row(int64_t head, int64_t position, float* scratch) const {
    const int64_t own = position - s_.pre_length - q_.past;
    if (own >= 0) return Own(head, own);
    if (q_.is_prompt) return Pre(head, position, scratch);
    return cache_.Load(q_.index, head, position, scratch);
  }

  // Writes what this step adds to the cache, the scales of a dynamic cache first.
  void Append(int64_t head, const CacheScales* dynamic_scales, float bound) const {
    std::vector<float> scratch(s_.head_dim);
    const int64_t pre_length = q_.is_prompt ? s_.pre_length : 0;
    const int64_t first = s_.pre_length + q_.past;
    if (dynamic_scales != nullptr && q_.is_prompt) {
      float largest = 0;
      for (int64_t i = 0; i < pre_length + q_.length; ++i) {
        const float* row = Row(head, i, scratch.data());
        for (int64_t d = 0; d < s_.head_dim; ++d) largest = std::max(largest, std::fabs(row[d]));
      }
      dynamic_scales->Set(q_.index, head, largest, bound);
    }
    for (int64_t i = 0; i < pre_length; ++i) {
      cache_.Store(q_.index, head, i, Pre(head, i, scratch.data()));
    }
    for (int64_t t = 0; t < q_.length; ++t) {
      cache_.Store(q_.index, head, first + t, Own(head, t));
    }
  }

 private:
  const Shape& s_;
  const Sequence& q_;
  const float* rows_;
  int64_t column_;
  const BlockCache& cache_;
  Reader pre_;
};

// Returns a sequence's rows of qkv as floats: dequantized, with the bias, rotated, and rounded
// to the type of the model.
std::vector<float> GetRows(const Shape& s, const Sequence& q, const Reader& qkv,
                           const std::vector<float>& scales, const std::vector<float>& bias,
                           const RotaryTable& rotary, DataType dtype) {
  std::vector<float> rows(q.length * s.width);
#pragma omp parallel for if (q.length > 4)
  for (int64_t t = 0; t < q.length; ++t) {
    float* row = rows.data() + t * s.width;
    qkv.Copy((q.first_row + t) * s.width, s.width, row);
    for (size_t i = 0; i < scales.size(); ++i) row[i] *= scales[i];
    for (size_t i = 0; i < bias.size(); ++i) row[i] += bias[i];
    rotary.Apply(q.index, q.past + t, s.heads + s.kv_heads, s.head_dim, row);
    RoundTo(dtype, row, s.width);
  }
  return rows;
}

// Stores the attention of all heads and tokens of a sequence. A mask of a prompt replaces the
// causal order; without one, token t sees what is before it and itself.
void AttendSequence(const Shape& s, const Sequence& q, const float* rows, const History& keys,
                    const History& values, const Mask& mask, const Output& output) {
  const int64_t before = s.pre_length + q.past;
  const int64_t total = before + q.length;
  const bool sees_all = q.is_prompt && mask.is_given();
  const float scale = 1.f / std::sqrt(static_cast<float>(s.head_dim));
  const int64_t group = s.heads / s.kv_heads;
#pragma omp parallel if (q.length * total * s.heads * s.head_dim > 1 << 17)
  {
    std::vector<float> scores(total), masks(total), scratch(s.head_dim), out(s.head_dim);
#pragma omp for collapse(2)
    for (int64_t h = 0; h < s.heads; ++h) {
      for (int64_t t = 0; t < q.length; ++t) {
        const int64_t length = sees_all ? total : before + t + 1;
        mask.Row(q.index, h, t, length, masks.data());
        Attend(
            rows + t * s.width + h * s.head_dim, length, s.head_dim, scale,
            [&](int64_t i) { return keys.Row(h / group, i, scratch.data()); },
            [&](int64_t i) { return values.Row(h / group, i, scratch.data()); },
            [&](int64_t i) { return masks[i]; }, scores.data(), out.data());
        output.Row(((q.first_row + t) * s.heads + h) * s.head_dim, h * s.head_dim, s.head_dim,
                   out.data());
      }
    }
  }
}

}  // namespace

template <typename T, typename Context>
void BlockAttention(const Context& context, const DenseTensor& qkv, const DenseTensor& key_cache,
                    const DenseTensor& value_cache, const DenseTensor& seq_lens_encoder,
                    const DenseTensor& seq_lens_decoder, const DenseTensor& seq_lens_this_time,
                    const DenseTensor& padding_offsets, const DenseTensor& cum_offsets,
                    const DenseTensor& cu_seqlens_q, const DenseTensor& cu_seqlens_k,
                    const DenseTensor& block_tables, const Optional& pre_key_cache,
                    const Optional& pre_value_cache, const Optional& rope_emb, const Optional& mask,
                    const Optional& tgt_mask, const Optional& cache_k_quant_scales,
                    const Optional& cache_v_quant_scales, const Optional& cache_k_dequant_scales,
                    const Optional& cache_v_dequant_scales, const Optional& qkv_out_scale,
                    const Optional& qkv_bias, const Optional& out_shift, const Optional& out_smooth,
                    const Optional& max_enc_len_this_time, const Optional& max_dec_len_this_time,
                    int max_seq_len, int block_size, bool use_neox_style,
                    bool dynamic_cachekv_quant, int quant_round_type, float quant_max_bound,
                    float quant_min_bound, float out_scale, const std::string& compute_dtype,
                    float rope_theta, DenseTensor* fmha_out, DenseTensor* qkv_out,
                    DenseTensor* key_cache_out, DenseTensor* value_cache_out) {
  const Shape s = GetShape(qkv, key_cache, value_cache, cum_offsets, block_tables, pre_key_cache,
                           pre_value_cache);
  Require(block_size == s.block_size, [&] {
    return std::string(kOp) + "block_size is " + std::to_string(block_size) +
           ", the cache has blocks of " + std::to_string(s.block_size);
  });
  const auto sequences = GetSequences(
      s, Lengths(seq_lens_encoder, "block_multihead_attention: seq_lens_encoder", s.batch),
      Lengths(seq_lens_decoder, "block_multihead_attention: seq_lens_decoder", s.batch),
      Lengths(seq_lens_this_time, "block_multihead_attention: seq_lens_this_time", s.batch),
      Lengths(cu_seqlens_q, "block_multihead_attention: cu_seqlens_q", s.batch + 1),
      block_tables.data<int>());

  const DataType dtype = FloatType(qkv.dtype(), compute_dtype, "block_multihead_attention");
  const Quantizer quantizer{out_scale, quant_round_type, quant_max_bound, quant_min_bound};
  const bool is_int8_cache = key_cache.dtype() == DataType::UINT8;
  RequireType("block_multihead_attention: value_cache", value_cache, key_cache.dtype());
  if (is_int8_cache || out_scale > 0) quantizer.Check("block_multihead_attention");
  Require(is_int8_cache || key_cache.dtype() == dtype, [&] {
    return std::string(kOp) + "a model of " + Name(dtype) + " requires a cache of the same type " +
           "or of uint8, got " + Name(key_cache.dtype());
  });
  Require(qkv_out_scale || qkv.dtype() != DataType::INT32,
          [] { return std::string(kOp) + "int32 input requires qkv_out_scale"; });
  Require(bool(out_shift) == bool(out_smooth),
          [] { return std::string(kOp) + "out_shift and out_smooth must be given together"; });

  paddle::optional<CacheScales> key_scales, value_scales;
  if (is_int8_cache) {
    key_scales = CacheScales(cache_k_quant_scales, cache_k_dequant_scales, "cache_k", s,
                             dynamic_cachekv_quant);
    value_scales = CacheScales(cache_v_quant_scales, cache_v_dequant_scales, "cache_v", s,
                               dynamic_cachekv_quant);
  }
  const BlockCache key_blocks(key_cache, block_tables, s, quantizer, key_scales.get_ptr());
  const BlockCache value_blocks(value_cache, block_tables, s, quantizer, value_scales.get_ptr());

  const RotaryTable rotary(rope_emb, s, use_neox_style);
  const Mask prompt_mask(mask, "block_multihead_attention: mask", s.batch, s.heads);
  const Mask step_mask(tgt_mask, "block_multihead_attention: tgt_mask", s.batch, s.heads);
  for (const Sequence& q : sequences) {
    rotary.Cover(q);
    (q.is_prompt ? prompt_mask : step_mask).Cover(q.length, s.pre_length + q.past + q.length);
  }

  const int64_t inner = s.heads * s.head_dim;
  const auto scales = Floats(qkv_out_scale, "block_multihead_attention: qkv_out_scale", s.width);
  const auto bias = Floats(qkv_bias, "block_multihead_attention: qkv_bias", s.width);
  const DataType out_dtype = out_scale > 0 ? DataType::INT8 : dtype;
  const Optional none;
  void* out = Allocate(context, fmha_out, out_dtype);
  std::memset(out, 0, fmha_out->numel() * phi::SizeOf(out_dtype));  // rows of no sequence
  const Output output(
      out, out_dtype, quantizer,
      Floats(out_scale > 0 ? out_shift : none, "block_multihead_attention: out_shift", inner),
      Floats(out_scale > 0 ? out_smooth : none, "block_multihead_attention: out_smooth", inner));

  const Reader input = Read(qkv);
  for (const Sequence& q : sequences) {
    const auto rows = GetRows(s, q, input, scales, bias, rotary, dtype);
    const int64_t key_column = inner, value_column = inner + s.kv_heads * s.head_dim;
    const History keys(s, q, rows.data(), key_column, key_blocks, pre_key_cache);
    const History values(s, q, rows.data(), value_column, value_blocks, pre_value_cache);
    for (int64_t head = 0; head < s.kv_heads; ++head) {
      keys.Append(head, dynamic_cachekv_quant ? key_scales.get_ptr() : nullptr, quant_max_bound);
      values.Append(head, dynamic_cachekv_quant ? value_scales.get_ptr() : nullptr,
                    quant_max_bound);
    }
    AttendSequence(s, q, rows.data(), keys, values, q.is_prompt ? prompt_mask : step_mask, output);
  }
}

// The longest prompt and the longest history of the step; a batch is what `batch_size` has rows.
template <typename T, typename Context>
void BlockAttentionMaxLengths(const Context& context, const DenseTensor& seq_lens_encoder,
                              const DenseTensor& seq_lens_decoder, const DenseTensor& batch_size,
                              DenseTensor* max_enc_len_this_time,
                              DenseTensor* max_dec_len_this_time) {
  const int64_t batch = batch_size.dims()[0];
  const auto largest = [&](const DenseTensor& lengths, const char* what, DenseTensor* out) {
    const int* values = Lengths(lengths, what, batch);
    int* result = context.template Alloc<int>(out);
    *result = batch == 0 ? 0 : std::max(0, *std::max_element(values, values + batch));
  };
  largest(seq_lens_encoder, "blha_get_max_len: seq_lens_encoder", max_enc_len_this_time);
  largest(seq_lens_decoder, "blha_get_max_len: seq_lens_decoder", max_dec_len_this_time);
}

}  // namespace paddle_stacks

PD_REGISTER_KERNEL(block_multihead_attention, CPU, ALL_LAYOUT, paddle_stacks::BlockAttention, float,
                   phi::dtype::float16, phi::dtype::bfloat16, int32_t) {}
PD_REGISTER_KERNEL(blha_get_max_len, CPU, ALL_LAYOUT, paddle_stacks::BlockAttentionMaxLengths, int,
                   int64_t) {}
