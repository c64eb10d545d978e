// Between padded batches, [batch, length, …], and the rows of their tokens, [tokens, …].
//
// cum_offsets[b] is how many padding tokens come before sequence b; its first token then is row
// b * length - cum_offsets[b]. get_padding_offset and its v2 get them shifted by one: how many
// come before the end of sequence b.
#include "tensors.h"

namespace paddle_stacks {
namespace {

struct Offsets {
  Tensor tokens, cum_offsets, padding_offset, cu_seqlens;
};

Offsets GetOffsets(const Tensor& input_ids, const Tensor& cum_offsets, const Tensor& token_num,
                   const Tensor& seq_len, int64_t batch) {
  RequireRank("get_padding_offset: input_ids", input_ids, 2);
  const int64_t length = input_ids.shape()[1];
  const int64_t count = Rows<int64_t>("get_padding_offset: token_num", token_num, 1)[0];
  const int* lengths = Rows<int>("get_padding_offset: seq_len", seq_len, batch);
  const int* ends = Rows<int>("get_padding_offset: cum_offsets", cum_offsets, batch);
  const int64_t* ids = Rows<int64_t>("get_padding_offset: input_ids", input_ids, batch * length);
  int64_t sum = 0;
  for (int64_t b = 0; b < batch; ++b) {
    Require(0 <= lengths[b] && lengths[b] <= length, [&] {
      return "get_padding_offset: sequence " + std::to_string(b) + " has " +
             std::to_string(lengths[b]) + " tokens of " + std::to_string(length);
    });
    sum += lengths[b];
    Require(ends[b] == (b + 1) * length - sum, [&] {
      return "get_padding_offset: cum_offsets[" + std::to_string(b) + "]: expected " +
             std::to_string((b + 1) * length - sum) + ", got " + std::to_string(ends[b]);
    });
  }
  Require(sum == count, [&] {
    return "get_padding_offset: token_num: expected " + std::to_string(sum) + ", got " +
           std::to_string(count);
  });

  Offsets out{Zeros({count}, DataType::INT64), Zeros({batch}, DataType::INT32),
              Zeros({count}, DataType::INT32), Zeros({batch + 1}, DataType::INT32)};
  int64_t row = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const int before = b == 0 ? 0 : ends[b - 1];
    out.cum_offsets.data<int>()[b] = before;
    for (int i = 0; i < lengths[b]; ++i, ++row) {
      out.tokens.data<int64_t>()[row] = ids[b * length + i];
      out.padding_offset.data<int>()[row] = before;
    }
    out.cu_seqlens.data<int>()[b + 1] = static_cast<int>(row);
  }
  return out;
}

// Copies one token of each sequence: `token(b)`, or none (zeros) if that is negative.
template <typename Token>
Tensor PickTokens(const char* op, const Tensor& rows, const int* cum_offsets, int64_t batch,
                  int64_t length, const Token& token) {
  RequireRank(op, rows, 2);
  const int64_t width = rows.shape()[1];
  Tensor out = Zeros({batch, width}, rows.dtype());
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t index = token(b);
    if (index < 0) continue;
    const int64_t row = b * length - cum_offsets[b] + index;
    Require(0 <= row && row < rows.shape()[0], [&] {
      return std::string(op) + ": sequence " + std::to_string(b) + " ends in row " +
             std::to_string(row) + " of " + std::to_string(rows.shape()[0]);
    });
    CopyRow(rows, row * width, out, b * width, width);
  }
  return out;
}

// Where a token is in a padded batch, checked.
int64_t PaddedIndex(const char* op, const int* padding_offset, int64_t row, int64_t size) {
  const int64_t index = row + padding_offset[row];
  Require(0 <= index && index < size, [&] {
    return std::string(op) + ": padding_offset puts row " + std::to_string(row) + " at " +
           std::to_string(index) + " of " + std::to_string(size);
  });
  return index;
}

}  // namespace

Tensors GetPaddingOffset(const Tensor& input_ids, const Tensor& cum_offsets,
                         const Tensor& token_num, const Tensor& seq_len) {
  const Offsets out = GetOffsets(input_ids, cum_offsets, token_num, seq_len, input_ids.shape()[0]);
  return {out.tokens, out.cum_offsets, out.padding_offset};
}

std::vector<Dims> GetPaddingOffsetShape(const Dims& input_ids, const Dims& cum_offsets,
                                        const Dims& token_num, const Dims& seq_len) {
  return {{-1}, {input_ids[0]}, {-1}};
}

std::vector<DataType> GetPaddingOffsetType(const DataType& input_ids, const DataType& cum_offsets,
                                           const DataType& token_num, const DataType& seq_len) {
  return {input_ids, seq_len, seq_len};
}

Tensors GetPaddingOffsetV2(const Tensor& input_ids, const Tensor& cum_offsets,
                           const Tensor& token_num, const Tensor& seq_len) {
  const Offsets out = GetOffsets(input_ids, cum_offsets, token_num, seq_len, seq_len.shape()[0]);
  return {out.tokens, out.cum_offsets, out.padding_offset, out.cu_seqlens,
          out.cu_seqlens.copy_to(paddle::CPUPlace(), false)};
}

std::vector<Dims> GetPaddingOffsetV2Shape(const Dims& input_ids, const Dims& cum_offsets,
                                          const Dims& token_num, const Dims& seq_len) {
  return {{-1}, {seq_len[0]}, {-1}, {seq_len[0] + 1}, {seq_len[0] + 1}};
}

std::vector<DataType> GetPaddingOffsetV2Type(const DataType& input_ids, const DataType& cum_offsets,
                                             const DataType& token_num, const DataType& seq_len) {
  return {input_ids, seq_len, seq_len, seq_len, seq_len};
}

// The last token of each sequence; the input that upstream calls padding_offset is cum_offsets.
Tensors RebuildPadding(const Tensor& tmp_out, const Tensor& padding_offset, const Tensor& seq_lens,
                       const Tensor& input_ids) {
  const int64_t batch = seq_lens.shape()[0];
  const int* lengths = Rows<int>("rebuild_padding: seq_lens", seq_lens, batch);
  const int* offsets = Rows<int>("rebuild_padding: padding_offset", padding_offset, batch);
  RequireRank("rebuild_padding: input_ids", input_ids, 2);
  return {PickTokens("rebuild_padding: tmp_out", tmp_out, offsets, batch, input_ids.shape()[1],
                     [&](int64_t b) { return lengths[b] - 1; })};
}

std::vector<Dims> RebuildPaddingShape(const Dims& tmp_out, const Dims& padding_offset,
                                      const Dims& seq_lens, const Dims& input_ids) {
  return {{seq_lens[0], tmp_out[1]}};
}

std::vector<DataType> RebuildPaddingType(const DataType& tmp_out, const DataType& padding_offset,
                                         const DataType& seq_lens, const DataType& input_ids) {
  return {tmp_out};
}

// The last token of each prompt, the one token of a sequence that is being decoded.
Tensors RebuildPaddingV2(const Tensor& tmp_out, const Tensor& cum_offsets,
                         const Tensor& seq_lens_decoder, const Tensor& seq_lens_encoder,
                         int max_input_length) {
  const int64_t batch = cum_offsets.shape()[0];
  const int* decoder = Rows<int>("rebuild_padding_v2: seq_lens_decoder", seq_lens_decoder, batch);
  const int* encoder = Rows<int>("rebuild_padding_v2: seq_lens_encoder", seq_lens_encoder, batch);
  const int* offsets = Rows<int>("rebuild_padding_v2: cum_offsets", cum_offsets, batch);
  return {PickTokens("rebuild_padding_v2: tmp_out", tmp_out, offsets, batch, max_input_length,
                     [&](int64_t b) { return decoder[b] != 0 ? 0 : encoder[b] - 1; })};
}

std::vector<Dims> RebuildPaddingV2Shape(const Dims& tmp_out, const Dims& cum_offsets,
                                        const Dims& seq_lens_decoder,
                                        const Dims& seq_lens_encoder) {
  return {{cum_offsets[0], tmp_out[1]}};
}

// [tokens, (heads + 2 kv_heads) head_size] to three padded [batch, heads, length, head_size].
Tensors QkvTransposeSplit(const Tensor& qkv, const Tensor& padding_offset, const Tensor& seq_lens,
                          const Tensor& input_ids, int num_head, int head_size) {
  RequireRank("qkv_transpose_split: qkv", qkv, 2);
  RequireRank("qkv_transpose_split: input_ids", input_ids, 2);
  const int64_t rows = qkv.shape()[0], width = qkv.shape()[1];
  const int64_t batch = seq_lens.shape()[0], length = input_ids.shape()[1];
  const int64_t heads = num_head, size = head_size;
  const int64_t kv_heads = (width / size - heads) / 2;
  Require(kv_heads > 0 && width == (heads + 2 * kv_heads) * size, [&] {
    return "qkv_transpose_split: a width of " + std::to_string(width) + " is not " +
           std::to_string(heads) + " query heads and two times the same number of key heads, of " +
           std::to_string(size);
  });
  const int* offsets = Rows<int>("qkv_transpose_split: padding_offset", padding_offset, rows);
  const int* lengths = Rows<int>("qkv_transpose_split: seq_lens", seq_lens, batch);

  Tensors out = {Zeros({batch, heads, length, size}, qkv.dtype()),
                 Zeros({batch, kv_heads, length, size}, qkv.dtype()),
                 Zeros({batch, kv_heads, length, size}, qkv.dtype())};
  const int64_t counts[3] = {heads, kv_heads, kv_heads};
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t index = PaddedIndex("qkv_transpose_split", offsets, row, batch * length);
    const int64_t b = index / length, position = index % length;
    if (lengths[b] == 0) continue;
    int64_t source = row * width;
    for (int kind = 0; kind < 3; ++kind) {
      for (int64_t h = 0; h < counts[kind]; ++h, source += size) {
        CopyRow(qkv, source, out[kind], ((b * counts[kind] + h) * length + position) * size, size);
      }
    }
  }
  return out;
}

std::vector<Dims> QkvTransposeSplitShape(const Dims& qkv, const Dims& padding_offset,
                                         const Dims& seq_lens, const Dims& input_ids, int num_head,
                                         int head_size) {
  const int64_t kv_heads = (qkv[1] / head_size - num_head) / 2;
  return {{seq_lens[0], num_head, -1, head_size},
          {seq_lens[0], kv_heads, -1, head_size},
          {seq_lens[0], kv_heads, -1, head_size}};
}

std::vector<DataType> QkvTransposeSplitType(const DataType& qkv, const DataType& padding_offset,
                                            const DataType& seq_lens, const DataType& input_ids) {
  return {qkv, qkv, qkv};
}

// [batch, heads, length, head_size] to the rows of its tokens, [tokens, heads * head_size].
Tensors TransposeRemovePadding(const Tensor& input, const Tensor& seq_lens,
                               const Tensor& padding_offset) {
  RequireRank("transpose_remove_padding: input", input, 4);
  const int64_t batch = input.shape()[0], heads = input.shape()[1];
  const int64_t length = input.shape()[2], size = input.shape()[3];
  const int64_t rows = padding_offset.shape()[0];
  const int* offsets = Rows<int>("transpose_remove_padding: padding_offset", padding_offset, rows);
  const int* lengths = Rows<int>("transpose_remove_padding: seq_lens", seq_lens, batch);
  Tensor out = Zeros({rows, heads * size}, input.dtype());
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t index = PaddedIndex("transpose_remove_padding", offsets, row, batch * length);
    const int64_t b = index / length, position = index % length;
    if (lengths[b] == 0) continue;
    for (int64_t h = 0; h < heads; ++h) {
      CopyRow(input, ((b * heads + h) * length + position) * size, out, (row * heads + h) * size,
              size);
    }
  }
  return {out};
}

std::vector<Dims> TransposeRemovePaddingShape(const Dims& input, const Dims& seq_lens,
                                              const Dims& padding_offset) {
  return {{padding_offset[0], input[1] * input[3]}};
}

std::vector<DataType> TransposeRemovePaddingType(const DataType& input, const DataType& seq_lens,
                                                 const DataType& padding_offset) {
  return {input};
}

}  // namespace paddle_stacks

using namespace paddle_stacks;  // NOLINT: the macros below want plain names

PD_BUILD_OP(get_padding_offset)
    .Inputs({"input_ids", "cum_offsets", "token_num", "seq_len"})
    .Outputs({"x_remove_padding", "cum_offsets_out", "padding_offset"})
    .SetKernelFn(PD_KERNEL(GetPaddingOffset))
    .SetInferShapeFn(PD_INFER_SHAPE(GetPaddingOffsetShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(GetPaddingOffsetType));

PD_BUILD_OP(get_padding_offset_v2)
    .Inputs({"input_ids", "cum_offsets", "token_num", "seq_len"})
    .Outputs({"x_remove_padding", "cum_offsets_out", "padding_offset", "cu_seqlens_q",
              "cu_seqlens_k"})
    .SetKernelFn(PD_KERNEL(GetPaddingOffsetV2))
    .SetInferShapeFn(PD_INFER_SHAPE(GetPaddingOffsetV2Shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(GetPaddingOffsetV2Type));

PD_BUILD_OP(rebuild_padding)
    .Inputs({"tmp_out", "padding_offset", "seq_lens", "input_ids"})
    .Outputs({"out"})
    .SetKernelFn(PD_KERNEL(RebuildPadding))
    .SetInferShapeFn(PD_INFER_SHAPE(RebuildPaddingShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(RebuildPaddingType));

PD_BUILD_OP(rebuild_padding_v2)
    .Inputs({"tmp_out", "cum_offsets", "seq_lens_decoder", "seq_lens_encoder"})
    .Outputs({"out"})
    .Attrs({"max_input_length: int"})
    .SetKernelFn(PD_KERNEL(RebuildPaddingV2))
    .SetInferShapeFn(PD_INFER_SHAPE(RebuildPaddingV2Shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(RebuildPaddingType));

PD_BUILD_OP(qkv_transpose_split)
    .Inputs({"qkv", "padding_offset", "seq_lens", "input_ids"})
    .Outputs({"q_out", "k_out", "v_out"})
    .Attrs({"num_head: int", "head_size: int"})
    .SetKernelFn(PD_KERNEL(QkvTransposeSplit))
    .SetInferShapeFn(PD_INFER_SHAPE(QkvTransposeSplitShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(QkvTransposeSplitType));

PD_BUILD_OP(transpose_remove_padding)
    .Inputs({"input", "seq_lens", "padding_offset"})
    .Outputs({"fmha_out"})
    .SetKernelFn(PD_KERNEL(TransposeRemovePadding))
    .SetInferShapeFn(PD_INFER_SHAPE(TransposeRemovePaddingShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(TransposeRemovePaddingType));
