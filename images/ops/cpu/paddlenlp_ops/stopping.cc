// Bookkeeping between steps: the tokens so far, which rows have ended, what comes next.
#include "tensors.h"

namespace paddle_stacks {
namespace {

bool IsEnd(int64_t token, const Tensor& end_ids) {
  const int64_t* ids = end_ids.data<int64_t>();
  for (int64_t i = 0; i < end_ids.numel(); ++i) {
    if (ids[i] == token) return true;
  }
  return false;
}

// Writes a token to pre_ids_all[row, step].
void Append(const char* op, const Tensor& pre_ids_all, int64_t row, int64_t step, int64_t token) {
  const int64_t length = pre_ids_all.shape()[1];
  Require(step < length, [&] {
    return std::string(op) + ": step_idx[" + std::to_string(row) + "] is " + std::to_string(step) +
           ", pre_ids_all has " + std::to_string(length) + " columns";
  });
  Mutable<int64_t>(pre_ids_all)[row * length + step] = token;
}

void CheckPreIds(const char* op, const Tensor& pre_ids_all, int64_t rows) {
  RequireRank(op, pre_ids_all, 2);
  Rows<int64_t>(op, pre_ids_all, rows * pre_ids_all.shape()[1]);
}

void CheckEnds(const char* op, const Tensor& end_ids) { Rows<int64_t>(op, end_ids, 1); }

}  // namespace

Tensors SetValueByFlagsAndIdx(const Tensor& pre_ids_all, const Tensor& pre_ids_now,
                              const Tensor& step_idx, const Tensor& stop_flags) {
  const char* op = "set_value_by_flags_and_idx";
  const int64_t rows = stop_flags.shape()[0];
  CheckPreIds(op, pre_ids_all, rows);
  const int64_t* now = Rows<int64_t>(op, pre_ids_now, rows);
  const int64_t* steps = Rows<int64_t>(op, step_idx, rows);
  const bool* stops = Rows<bool>(op, stop_flags, rows);
  for (int64_t b = 0; b < rows; ++b) {
    if (!stops[b] && steps[b] >= 0) Append(op, pre_ids_all, b, steps[b], now[b]);
  }
  return {stop_flags.copy_to(paddle::CPUPlace(), false)};
}

std::vector<Dims> SetValueByFlagsAndIdxShape(const Dims& pre_ids_all, const Dims& pre_ids_now,
                                             const Dims& step_idx, const Dims& stop_flags) {
  return {stop_flags};
}

std::vector<DataType> SetValueByFlagsAndIdxType(const DataType& pre_ids_all,
                                                const DataType& pre_ids_now,
                                                const DataType& step_idx,
                                                const DataType& stop_flags) {
  return {stop_flags};
}

void SetValueByFlagsAndIdxV2(const Tensor& pre_ids_all, const Tensor& input_ids,
                             const Tensor& seq_lens_this_time, const Tensor& seq_lens_encoder,
                             const Tensor& seq_lens_decoder, const Tensor& step_idx,
                             const Tensor& stop_flags) {
  const char* op = "set_value_by_flags_and_idx_v2";
  const int64_t rows = seq_lens_this_time.shape()[0];
  CheckPreIds(op, pre_ids_all, rows);
  RequireRank(op, input_ids, 2);
  const int64_t length = input_ids.shape()[1];
  const int64_t* ids = Rows<int64_t>(op, input_ids, rows * length);
  const int* encoder = Rows<int>(op, seq_lens_encoder, rows);
  const int* decoder = Rows<int>(op, seq_lens_decoder, rows);
  const int64_t* steps = Rows<int64_t>(op, step_idx, rows);
  const bool* stops = Rows<bool>(op, stop_flags, rows);
  for (int64_t b = 0; b < rows; ++b) {
    const bool is_finished = decoder[b] == 0 && encoder[b] == 0;
    if (stops[b] || is_finished || steps[b] < 0) continue;
    const int64_t last = decoder[b] == 0 ? encoder[b] - 1 : 0;
    Require(0 <= last && last < length, [&] {
      return std::string(op) + ": seq_lens_encoder[" + std::to_string(b) + "] is " +
             std::to_string(encoder[b]) + ", input_ids has " + std::to_string(length) + " columns";
    });
    Append(op, pre_ids_all, b, steps[b], ids[b * length + last]);
  }
}

Tensors SetStopValueMultiEnds(const Tensor& topk_ids, const Tensor& stop_flags,
                              const Tensor& end_ids, int64_t mode) {
  const char* op = "set_stop_value_multi_ends";
  Require(mode == 2, [&] {
    return std::string(op) + ": mode must be 2; 0 and 1 read a file of one of upstream's " +
           "machines, got " + std::to_string(mode);
  });
  const int64_t rows = topk_ids.shape()[0];
  Rows<int64_t>(op, topk_ids, rows);
  Rows<bool>(op, stop_flags, rows);
  CheckEnds(op, end_ids);
  Tensor tokens = topk_ids.copy_to(paddle::CPUPlace(), false);
  Tensor stops = stop_flags.copy_to(paddle::CPUPlace(), false);
  for (int64_t b = 0; b < rows; ++b) {
    int64_t& token = tokens.data<int64_t>()[b];
    if (stops.data<bool>()[b]) token = end_ids.data<int64_t>()[0];
    if (IsEnd(token, end_ids)) stops.data<bool>()[b] = true;
  }
  return {tokens, stops};
}

std::vector<Dims> SetStopValueMultiEndsShape(const Dims& topk_ids, const Dims& stop_flags,
                                             const Dims& end_ids) {
  return {topk_ids, stop_flags};
}

std::vector<DataType> SetStopValueMultiEndsType(const DataType& topk_ids,
                                                const DataType& stop_flags,
                                                const DataType& end_ids) {
  return {topk_ids, stop_flags};
}

// A row that has stopped gets -1 if it is finished, else the end.
void SetStopValueMultiEndsV2(const Tensor& topk_ids, const Tensor& stop_flags,
                             const Tensor& seq_lens, const Tensor& end_ids,
                             const Tensor& next_tokens) {
  const char* op = "set_stop_value_multi_ends_v2";
  const int64_t rows = topk_ids.shape()[0];
  int64_t* tokens = MutableRows<int64_t>(op, topk_ids, rows);
  bool* stops = MutableRows<bool>(op, stop_flags, rows);
  const int* lengths = Rows<int>(op, seq_lens, rows);
  int64_t* next = MutableRows<int64_t>(op, next_tokens, rows);
  CheckEnds(op, end_ids);
  for (int64_t b = 0; b < rows; ++b) {
    if (!stops[b]) {
      next[b] = tokens[b];
    } else if (lengths[b] == 0) {
      tokens[b] = -1;
    } else {
      tokens[b] = next[b] = end_ids.data<int64_t>()[0];
    }
    if (IsEnd(tokens[b], end_ids)) stops[b] = true;
  }
}

// Turns prompts into sequences that are decoded. Rows after the batch count as stopped, rows
// that wait for blocks do not.
void UpdateInputs(const Tensor& stop_flags, const Tensor& not_need_stop,
                  const Tensor& seq_lens_this_time, const Tensor& seq_lens_encoder,
                  const Tensor& seq_lens_decoder, const Tensor& input_ids, const Tensor& stop_nums,
                  const Tensor& next_tokens, const Tensor& is_block_step) {
  const char* op = "update_inputs";
  const int64_t most = stop_flags.shape()[0], rows = seq_lens_this_time.shape()[0];
  RequireRank(op, input_ids, 2);
  const int64_t length = input_ids.shape()[1];
  const bool* stops = Rows<bool>(op, stop_flags, rows);
  const bool* waits = Rows<bool>(op, is_block_step, rows);
  const int64_t* next = Rows<int64_t>(op, next_tokens, rows);
  int* now = MutableRows<int>(op, seq_lens_this_time, rows);
  int* encoder = MutableRows<int>(op, seq_lens_encoder, rows);
  int* decoder = MutableRows<int>(op, seq_lens_decoder, rows);
  int64_t* ids = MutableRows<int64_t>(op, input_ids, rows * length);
  int64_t stopped = most - rows;
  for (int64_t b = 0; b < rows; ++b) {
    if (stops[b] && !waits[b]) ++stopped;
    const int after = decoder[b] == 0 ? encoder[b] : decoder[b] + 1;
    decoder[b] = stops[b] ? 0 : after;
    now[b] = stops[b] ? 0 : 1;
    encoder[b] = 0;
    ids[b * length] = next[b];
  }
  MutableRows<bool>(op, not_need_stop, 1)[0] = stopped < Rows<int64_t>(op, stop_nums, 1)[0];
}

}  // namespace paddle_stacks

using namespace paddle_stacks;  // NOLINT: the macros below want plain names

PD_BUILD_OP(set_value_by_flags_and_idx)
    .Inputs({"pre_ids_all", "pre_ids_now", "step_idx", "stop_flags"})
    .Outputs({"stop_flags_out"})
    .SetKernelFn(PD_KERNEL(SetValueByFlagsAndIdx))
    .SetInferShapeFn(PD_INFER_SHAPE(SetValueByFlagsAndIdxShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(SetValueByFlagsAndIdxType));

PD_BUILD_OP(set_value_by_flags_and_idx_v2)
    .Inputs({"pre_ids_all", "input_ids", "seq_lens_this_time", "seq_lens_encoder",
             "seq_lens_decoder", "step_idx", "stop_flags"})
    .Outputs({"pre_ids_all_out"})
    .SetInplaceMap({{"pre_ids_all", "pre_ids_all_out"}})
    .SetKernelFn(PD_KERNEL(SetValueByFlagsAndIdxV2));

PD_BUILD_OP(set_stop_value_multi_ends)
    .Inputs({"topk_ids", "stop_flags", "end_ids"})
    .Outputs({"topk_ids_out", "stop_flags_out"})
    .Attrs({"mode: int64_t"})
    .SetKernelFn(PD_KERNEL(SetStopValueMultiEnds))
    .SetInferShapeFn(PD_INFER_SHAPE(SetStopValueMultiEndsShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(SetStopValueMultiEndsType));

PD_BUILD_OP(set_stop_value_multi_ends_v2)
    .Inputs({"topk_ids", "stop_flags", "seq_lens", "end_ids", "next_tokens"})
    .Outputs({"topk_ids_out", "stop_flags_out", "next_tokens_out"})
    .SetInplaceMap({{"topk_ids", "topk_ids_out"},
                    {"stop_flags", "stop_flags_out"},
                    {"next_tokens", "next_tokens_out"}})
    .SetKernelFn(PD_KERNEL(SetStopValueMultiEndsV2));

PD_BUILD_OP(update_inputs)
    .Inputs({"stop_flags", "not_need_stop", "seq_lens_this_time", "seq_lens_encoder",
             "seq_lens_decoder", "input_ids", "stop_nums", "next_tokens", "is_block_step"})
    .Outputs({"not_need_stop_out", "seq_lens_this_time_out", "seq_lens_encoder_out",
              "seq_lens_decoder_out", "input_ids_out"})
    .SetInplaceMap({{"not_need_stop", "not_need_stop_out"},
                    {"seq_lens_this_time", "seq_lens_this_time_out"},
                    {"seq_lens_encoder", "seq_lens_encoder_out"},
                    {"seq_lens_decoder", "seq_lens_decoder_out"},
                    {"input_ids", "input_ids_out"}})
    .SetKernelFn(PD_KERNEL(UpdateInputs));
