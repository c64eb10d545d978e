// step_paddle: blocks of the cache between steps. Finished rows give theirs back, rows that
// cross into a new block get one, and where too few are free, the row with the most blocks
// waits until there are enough to begin it again.
#include "tensors.h"

namespace paddle_stacks {
namespace {

constexpr const char* kOp = "step_paddle: ";

struct State {
  int64_t rows, blocks_per_row, length, pre_length, block_size;
  bool *stop_flags, *is_block_step;
  int *seq_lens_this_time, *seq_lens_encoder, *seq_lens_decoder, *block_tables;
  const int* ori_seq_lens_encoder;
  int *encoder_block_lens, *used_list_len;
  int *step_block_list, *step_len, *recover_block_list, *recover_len;
  int *need_block_list, *need_block_len, *free_list, *free_list_len;
  int64_t free_capacity;
  int64_t* input_ids;
  const int64_t *pre_ids, *step_idx, *next_tokens;

  int* Table(int64_t row) const { return block_tables + row * blocks_per_row; }
};

// Moves the decoder's blocks of a row from its table to the free list.
void FreeBlocks(const State& s, int64_t row) {
  const int first = s.encoder_block_lens[row], count = s.used_list_len[row];
  Require(0 <= first && 0 <= count && first + count <= s.blocks_per_row &&
              *s.free_list_len + count <= s.free_capacity,
          [&] {
            return std::string(kOp) + "row " + std::to_string(row) + " uses blocks " +
                   std::to_string(first) + " to " + std::to_string(first + count) + " of " +
                   std::to_string(s.blocks_per_row) + "; " + std::to_string(*s.free_list_len) +
                   " of " + std::to_string(s.free_capacity) + " are free";
          });
  for (int i = 0; i < count; ++i) {
    s.free_list[(*s.free_list_len)++] = s.Table(row)[first + i];
    s.Table(row)[first + i] = -1;
  }
}

// Frees what finished rows hold and lists the rows that need a block.
void Collect(const State& s) {
  for (int64_t b = 0; b < s.rows; ++b) {
    if (s.stop_flags[b] && !s.is_block_step[b]) {
      if (s.used_list_len[b] <= 0) continue;
      FreeBlocks(s, b);
      s.encoder_block_lens[b] = 0;
      s.used_list_len[b] = 0;
    } else if (s.seq_lens_decoder[b] != 0) {
      const int64_t block = s.seq_lens_decoder[b] / s.block_size;
      Require(block < s.blocks_per_row, [&] {
        return std::string(kOp) + "row " + std::to_string(b) + " has " +
               std::to_string(s.seq_lens_decoder[b]) + " tokens in " +
               std::to_string(s.blocks_per_row) + " blocks of " + std::to_string(s.block_size);
      });
      if (s.Table(b)[block] == -1) s.need_block_list[(*s.need_block_len)++] = b;
    }
  }
}

// Makes the row with the most blocks wait, until enough are free.
void Preempt(const State& s) {
  while (*s.need_block_len > *s.free_list_len) {
    int64_t row = -1;
    for (int64_t b = 0; b < s.rows; ++b) {
      if (s.is_block_step[b] || s.used_list_len[b] <= 0) continue;
      if (row < 0 || s.used_list_len[b] > s.used_list_len[row]) row = b;
    }
    Require(row >= 0, [&] {
      return std::string(kOp) + std::to_string(*s.need_block_len) + " rows need a block, " +
             std::to_string(*s.free_list_len) + " are free and no row can give one back: the " +
             "cache has too few blocks";
    });
    FreeBlocks(s, row);
    s.step_block_list[(*s.step_len)++] = static_cast<int>(row);
    s.stop_flags[row] = s.is_block_step[row] = true;
    s.seq_lens_this_time[row] = s.seq_lens_decoder[row] = 0;
  }
}

void Allocate(const State& s) {
  for (int i = 0; i < *s.need_block_len; ++i) {
    const int row = s.need_block_list[i];
    s.need_block_list[i] = -1;
    if (s.stop_flags[row]) continue;  // it waits since Preempt
    ++s.used_list_len[row];
    s.Table(row)[s.seq_lens_decoder[row] / s.block_size] = s.free_list[--(*s.free_list_len)];
  }
  *s.need_block_len = 0;
}

// Chooses the rows that can go on, the last that had to wait first. Each gets a block more
// than it had, or it might have to wait again at once.
void ChooseRecovered(const State& s) {
  const int most = static_cast<int>(s.length / s.block_size);
  int available = *s.free_list_len;
  while (*s.step_len > 0) {
    const int row = s.step_block_list[*s.step_len - 1];
    const int used = s.used_list_len[row];
    const int needed = used < most ? used + 1 : used;
    if (available < needed) return;
    available -= needed;
    s.recover_block_list[(*s.recover_len)++] = row;
    s.is_block_step[row] = false;
    s.used_list_len[row] = needed;
    s.step_block_list[--(*s.step_len)] = -1;
  }
}

// Begins a row again: its prompt is what it had, prompt and tokens.
void Recover(const State& s, int64_t row, int64_t first_token_id) {
  const int64_t prompt = s.ori_seq_lens_encoder[row], steps = s.step_idx[row];
  const int first = s.encoder_block_lens[row], count = s.used_list_len[row];
  Require(steps >= 1 && prompt + steps <= s.length && steps <= s.pre_length &&
              first + count <= s.blocks_per_row && count <= *s.free_list_len,
          [&] {
            return std::string(kOp) + "row " + std::to_string(row) +
                   " cannot be begun again: " + std::to_string(prompt) + " tokens and " +
                   std::to_string(steps) + " steps of " + std::to_string(s.length) + ", blocks " +
                   std::to_string(first) + " to " + std::to_string(first + count) + " of " +
                   std::to_string(s.blocks_per_row) + ", " + std::to_string(*s.free_list_len) +
                   " free";
          });
  int64_t* ids = s.input_ids + row * s.length;
  s.seq_lens_this_time[row] = s.seq_lens_encoder[row] = static_cast<int>(prompt + steps);
  s.stop_flags[row] = false;
  ids[prompt + steps - 1] = s.next_tokens[row];
  ids[0] = first_token_id;
  for (int i = 0; i < count; ++i) s.Table(row)[first + i] = s.free_list[--(*s.free_list_len)];
  for (int64_t i = 0; i < steps - 1; ++i) {
    ids[prompt + i] = s.pre_ids[row * s.pre_length + i + 1];
  }
}

}  // namespace

void StepPaddle(const Tensor& stop_flags, const Tensor& seq_lens_this_time,
                const Tensor& ori_seq_lens_encoder, const Tensor& seq_lens_encoder,
                const Tensor& seq_lens_decoder, const Tensor& block_tables,
                const Tensor& encoder_block_lens, const Tensor& is_block_step,
                const Tensor& step_block_list, const Tensor& step_lens,
                const Tensor& recover_block_list, const Tensor& recover_lens,
                const Tensor& need_block_list, const Tensor& need_block_len,
                const Tensor& used_list_len, const Tensor& free_list, const Tensor& free_list_len,
                const Tensor& input_ids, const Tensor& pre_ids, const Tensor& step_idx,
                const Tensor& next_tokens, int block_size, int encoder_decoder_block_num,
                int64_t first_token_id) {
  RequireRank("step_paddle: block_tables", block_tables, 2);
  RequireRank("step_paddle: input_ids", input_ids, 2);
  RequireRank("step_paddle: pre_ids", pre_ids, 2);
  Require(block_size > 0, [] { return std::string(kOp) + "block_size must be above 0"; });
  State s{};
  const int64_t rows = seq_lens_this_time.shape()[0];
  s.rows = rows;
  s.blocks_per_row = block_tables.shape()[1];
  s.length = input_ids.shape()[1];
  s.pre_length = pre_ids.shape()[1];
  s.block_size = block_size;
  s.stop_flags = MutableRows<bool>("step_paddle: stop_flags", stop_flags, rows);
  s.is_block_step = MutableRows<bool>("step_paddle: is_block_step", is_block_step, rows);
  s.seq_lens_this_time = Mutable<int>(seq_lens_this_time);
  s.seq_lens_encoder = MutableRows<int>("step_paddle: seq_lens_encoder", seq_lens_encoder, rows);
  s.seq_lens_decoder = MutableRows<int>("step_paddle: seq_lens_decoder", seq_lens_decoder, rows);
  s.ori_seq_lens_encoder =
      Rows<int>("step_paddle: ori_seq_lens_encoder", ori_seq_lens_encoder, rows);
  s.block_tables =
      MutableRows<int>("step_paddle: block_tables", block_tables, rows * s.blocks_per_row);
  s.encoder_block_lens =
      MutableRows<int>("step_paddle: encoder_block_lens", encoder_block_lens, rows);
  s.used_list_len = MutableRows<int>("step_paddle: used_list_len", used_list_len, rows);
  s.step_block_list = MutableRows<int>("step_paddle: step_block_list", step_block_list, rows);
  s.step_len = MutableRows<int>("step_paddle: step_lens", step_lens, 1);
  s.recover_block_list =
      MutableRows<int>("step_paddle: recover_block_list", recover_block_list, rows);
  s.recover_len = MutableRows<int>("step_paddle: recover_lens", recover_lens, 1);
  s.need_block_list = MutableRows<int>("step_paddle: need_block_list", need_block_list, rows);
  s.need_block_len = MutableRows<int>("step_paddle: need_block_len", need_block_len, 1);
  s.free_list = Mutable<int>(free_list);
  s.free_list_len = MutableRows<int>("step_paddle: free_list_len", free_list_len, 1);
  s.free_capacity = free_list.numel();
  s.input_ids = MutableRows<int64_t>("step_paddle: input_ids", input_ids, rows * s.length);
  s.pre_ids = Rows<int64_t>("step_paddle: pre_ids", pre_ids, rows * s.pre_length);
  s.step_idx = Rows<int64_t>("step_paddle: step_idx", step_idx, rows);
  s.next_tokens = Rows<int64_t>("step_paddle: next_tokens", next_tokens, rows);

  Collect(s);
  Preempt(s);
  Allocate(s);
  ChooseRecovered(s);
  for (int i = 0; i < *s.recover_len; ++i) Recover(s, s.recover_block_list[i], first_token_id);
  *s.recover_len = 0;
}

}  // namespace paddle_stacks

using namespace paddle_stacks;  // NOLINT: the macros below want plain names

PD_BUILD_OP(step_paddle)
    .Inputs({"stop_flags",
             "seq_lens_this_time",
             "ori_seq_lens_encoder",
             "seq_lens_encoder",
             "seq_lens_decoder",
             "block_tables",
             "encoder_block_lens",
             "is_block_step",
             "step_block_list",
             "step_lens",
             "recover_block_list",
             "recover_lens",
             "need_block_list",
             "need_block_len",
             "used_list_len",
             "free_list",
             "free_list_len",
             "input_ids",
             "pre_ids",
             "step_idx",
             "next_tokens"})
    .Attrs({"block_size: int", "encoder_decoder_block_num: int", "first_token_id: int64_t"})
    .Outputs({"stop_flags_out", "seq_lens_this_time_out", "seq_lens_encoder_out",
              "seq_lens_decoder_out", "block_tables_out", "encoder_block_lens_out",
              "is_block_step_out", "step_block_list_out", "step_lens_out", "recover_block_list_out",
              "recover_lens_out", "need_block_list_out", "need_block_len_out", "used_list_len_out",
              "free_list_out", "free_list_len_out", "input_ids_out"})
    .SetInplaceMap({{"stop_flags", "stop_flags_out"},
                    {"seq_lens_this_time", "seq_lens_this_time_out"},
                    {"seq_lens_encoder", "seq_lens_encoder_out"},
                    {"seq_lens_decoder", "seq_lens_decoder_out"},
                    {"block_tables", "block_tables_out"},
                    {"encoder_block_lens", "encoder_block_lens_out"},
                    {"is_block_step", "is_block_step_out"},
                    {"step_block_list", "step_block_list_out"},
                    {"step_lens", "step_lens_out"},
                    {"recover_block_list", "recover_block_list_out"},
                    {"recover_lens", "recover_lens_out"},
                    {"need_block_list", "need_block_list_out"},
                    {"need_block_len", "need_block_len_out"},
                    {"used_list_len", "used_list_len_out"},
                    {"free_list", "free_list_out"},
                    {"free_list_len", "free_list_len_out"},
                    {"input_ids", "input_ids_out"}})
    .SetKernelFn(PD_KERNEL(StepPaddle));
