// variable_length_memory_efficient_attention: attention of padded batches.
#include "../common/attention.h"
#include "masks.h"

namespace paddle_stacks {

// q is [batch, heads, queries, head_dim], k and v [batch, kv_heads, keys, head_dim]. Sequence b
// has seq_lens[b] queries and kv_seq_lens[b] keys; queries after that are zeros.
template <typename T, typename Context>
void VariableLengthAttention(const Context& context, const DenseTensor& q, const DenseTensor& k,
                             const DenseTensor& v, const DenseTensor& seq_lens,
                             const DenseTensor& kv_seq_lens, const Optional& mask, float scale,
                             bool causal, int pre_cache_length, DenseTensor* out) {
  constexpr const char* kOp = "variable_length_memory_efficient_attention: ";
  Require(q.dims().size() == 4 && k.dims().size() == 4 && k.dims() == v.dims() &&
              q.dims()[0] == k.dims()[0] && q.dims()[3] == k.dims()[3] && k.dims()[1] > 0 &&
              q.dims()[1] % k.dims()[1] == 0 && k.dtype() == q.dtype() && v.dtype() == q.dtype(),
          [&] {
            return std::string(kOp) + "expected q [batch, heads, queries, head size] and k, v " +
                   "[batch, heads, keys, head size] of one type, got [" + q.dims().to_str() +
                   "], [" + k.dims().to_str() + "] and [" + v.dims().to_str() + "]";
          });
  const int64_t batch = q.dims()[0], heads = q.dims()[1], queries = q.dims()[2];
  const int64_t head_dim = q.dims()[3], kv_heads = k.dims()[1], keys = k.dims()[2];
  const Mask masks(mask, "variable_length_memory_efficient_attention: mask", batch, heads);
  for (const DenseTensor* lengths : {&seq_lens, &kv_seq_lens}) {
    RequireType("variable_length_memory_efficient_attention: lengths", *lengths, DataType::INT32);
    RequireLength("variable_length_memory_efficient_attention: lengths", lengths->numel(), batch);
  }
  const int* query_lengths = seq_lens.data<int>();
  const int* key_lengths = kv_seq_lens.data<int>();
  for (int64_t b = 0; b < batch; ++b) {
    Require(0 <= query_lengths[b] && query_lengths[b] <= queries && 0 <= key_lengths[b] &&
                key_lengths[b] <= keys,
            [&] {
              return std::string(kOp) + "sequence " + std::to_string(b) + ": " +
                     std::to_string(query_lengths[b]) + " of " + std::to_string(queries) +
                     " queries and " + std::to_string(key_lengths[b]) + " of " +
                     std::to_string(keys) + " keys";
            });
    masks.Cover(query_lengths[b], key_lengths[b]);
  }

  const Writer output = AllocateFloats(context, out, q.dtype());
  std::memset(out->data(), 0, out->numel() * phi::SizeOf(q.dtype()));
  const Reader query = Read(q), key = Read(k), value = Read(v);
#pragma omp parallel
  {
    std::vector<float> scores(keys), row(keys), one(head_dim), scratch(head_dim), sum(head_dim);
#pragma omp for collapse(3)
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < queries; ++i) {
          if (i >= query_lengths[b]) continue;
          const int64_t seen = causal ? i + 1 + pre_cache_length : keys;
          const int64_t length = std::min<int64_t>(key_lengths[b], seen);
          const int64_t offset = ((b * heads + h) * queries + i) * head_dim;
          const int64_t first = (b * kv_heads + h / (heads / kv_heads)) * keys;
          masks.Row(b, h, i, length, row.data());
          Attend(
              query.Row(offset, head_dim, one.data()), length, head_dim, scale,
              [&](int64_t j) { return key.Row((first + j) * head_dim, head_dim, scratch.data()); },
              [&](int64_t j) {
                return value.Row((first + j) * head_dim, head_dim, scratch.data());
              },
              [&](int64_t j) { return row[j]; }, scores.data(), sum.data());
          output.Row(offset, head_dim, sum.data());
        }
      }
    }
  }
}

}  // namespace paddle_stacks

PD_REGISTER_KERNEL(variable_length_memory_efficient_attention, CPU, ALL_LAYOUT,
                   paddle_stacks::VariableLengthAttention, float, phi::dtype::float16,
                   phi::dtype::bfloat16) {}
