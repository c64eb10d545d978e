// Penalties of tokens that were generated before, minimum length, temperature, banned tokens.
#include <map>

#include "tensors.h"

namespace paddle_stacks {
namespace {

// A row of logits, float32 while it is worked on.
class LogitsRow {
 public:
  LogitsRow(const Tensor& logits, int64_t row)
      : logits_(logits), offset_(row * logits.shape()[1]), values_(logits.shape()[1]) {
    Read(logits).Copy(offset_, size(), values_.data());
  }

  int64_t size() const { return static_cast<int64_t>(values_.size()); }

  float& operator[](int64_t token) {
    Require(0 <= token && token < size(), [&] {
      return "get_token_penalty_multi_scores: token " + std::to_string(token) + " of " +
             std::to_string(size());
    });
    return values_[token];
  }

  void Store() const {
    Writer(MutableData(logits_), logits_.dtype()).Row(offset_, size(), values_.data());
  }

 private:
  const Tensor& logits_;
  int64_t offset_;
  std::vector<float> values_;
};

struct Inputs {
  const Tensor &pre_ids, &penalties, &frequencies, &presences, &cur_len, &min_len, &eos;
};

void Check(const Tensor& logits, const Inputs& in) {
  RequireRank("get_token_penalty_multi_scores: logits", logits, 2);
  RequireRank("get_token_penalty_multi_scores: pre_ids", in.pre_ids, 2);
  RequireFloating("get_token_penalty_multi_scores: logits", logits);
  const int64_t rows = logits.shape()[0];
  Rows<int64_t>("get_token_penalty_multi_scores: pre_ids", in.pre_ids,
                rows * in.pre_ids.shape()[1]);
  Rows<int64_t>("get_token_penalty_multi_scores: cur_len", in.cur_len, rows);
  Rows<int64_t>("get_token_penalty_multi_scores: min_len", in.min_len, rows);
  RequireType("get_token_penalty_multi_scores: eos_token_id", in.eos, DataType::INT64);
  for (const Tensor* scores : {&in.penalties, &in.frequencies, &in.presences}) {
    RequireType("get_token_penalty_multi_scores: scores", *scores, logits.dtype());
    Require(scores->numel() >= rows, [&] {
      return "get_token_penalty_multi_scores: scores: expected " + std::to_string(rows) + ", got " +
             std::to_string(scores->numel());
    });
  }
}

// Bans the end of a row that is too short, then lowers what the row holds already.
void Penalize(const Tensor& logits, const Inputs& in, int64_t b, LogitsRow* row) {
  const int64_t current = in.cur_len.data<int64_t>()[b];
  if (current < 0) return;
  if (current < in.min_len.data<int64_t>()[b]) {
    // What upstream takes in the place of minus infinity.
    const float banned = logits.dtype() == DataType::FLOAT16 ? -1e4f : -1e10f;
    for (int64_t i = 0; i < in.eos.numel(); ++i) (*row)[in.eos.data<int64_t>()[i]] = banned;
  }
  std::map<int64_t, int> times;
  const int64_t length = in.pre_ids.shape()[1];
  const int64_t* ids = in.pre_ids.data<int64_t>() + b * length;
  for (int64_t i = 0; i < length && ids[i] >= 0; ++i) ++times[ids[i]];
  const float penalty = Read(in.penalties).At(b);
  const float frequency = Read(in.frequencies).At(b), presence = Read(in.presences).At(b);
  for (const auto& [token, count] : times) {
    float& logit = (*row)[token];
    logit = logit < 0 ? logit * penalty : logit / penalty;
    logit -= count * frequency + presence;
  }
}

}  // namespace

Tensors TokenPenalty(const Tensor& pre_ids, const Tensor& logits, const Tensor& penalty_scores,
                     const Tensor& frequency_scores, const Tensor& presence_scores,
                     const Tensor& cur_len, const Tensor& min_len, const Tensor& eos_token_id) {
  const Inputs in{pre_ids, penalty_scores, frequency_scores, presence_scores,
                  cur_len, min_len,        eos_token_id};
  Check(logits, in);
  Tensor out = logits.copy_to(paddle::CPUPlace(), false);
  for (int64_t b = 0; b < logits.shape()[0]; ++b) {
    LogitsRow row(out, b);
    Penalize(out, in, b, &row);
    row.Store();
  }
  return {out};
}

std::vector<Dims> TokenPenaltyShape(const Dims& pre_ids, const Dims& logits,
                                    const Dims& penalty_scores, const Dims& frequency_scores,
                                    const Dims& presence_scores, const Dims& cur_len,
                                    const Dims& min_len, const Dims& eos_token_id) {
  return {logits};
}

std::vector<DataType> TokenPenaltyType(const DataType& pre_ids, const DataType& logits,
                                       const DataType& penalty_scores,
                                       const DataType& frequency_scores,
                                       const DataType& presence_scores, const DataType& cur_len,
                                       const DataType& min_len, const DataType& eos_token_id) {
  return {logits};
}

void TokenPenaltyV2(const Tensor& pre_ids, const Tensor& logits, const Tensor& penalty_scores,
                    const Tensor& frequency_scores, const Tensor& presence_scores,
                    const Tensor& temperatures, const Tensor& bad_tokens, const Tensor& cur_len,
                    const Tensor& min_len, const Tensor& eos_token_id) {
  const Inputs in{pre_ids, penalty_scores, frequency_scores, presence_scores,
                  cur_len, min_len,        eos_token_id};
  Check(logits, in);
  const int64_t rows = logits.shape()[0], columns = logits.shape()[1];
  const float* divisors =
      Rows<float>("get_token_penalty_multi_scores_v2: temperatures", temperatures, rows);
  const int64_t* banned =
      Rows<int64_t>("get_token_penalty_multi_scores_v2: bad_tokens", bad_tokens, 0);
  for (int64_t b = 0; b < rows; ++b) {
    Require(divisors[b] > 0, [&] {
      return "get_token_penalty_multi_scores_v2: temperatures[" + std::to_string(b) + "] is " +
             std::to_string(divisors[b]) + "; it must be above 0 (greedy: 1 with a top_p of 0)";
    });
    LogitsRow row(logits, b);
    Penalize(logits, in, b, &row);
    for (int64_t i = 0; i < columns; ++i) row[i] /= divisors[b];
    for (int64_t i = 0; i < bad_tokens.numel(); ++i) {
      if (0 <= banned[i] && banned[i] < columns) row[banned[i]] = -1e10f;  // -1 is none
    }
    row.Store();
  }
}

}  // namespace paddle_stacks

using namespace paddle_stacks;  // NOLINT: the macros below want plain names

PD_BUILD_OP(get_token_penalty_multi_scores)
    .Inputs({"pre_ids", "logits", "penalty_scores", "frequency_scores", "presence_scores",
             "cur_len", "min_len", "eos_token_id"})
    .Outputs({"logits_out"})
    .SetKernelFn(PD_KERNEL(TokenPenalty))
    .SetInferShapeFn(PD_INFER_SHAPE(TokenPenaltyShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(TokenPenaltyType));

PD_BUILD_OP(get_token_penalty_multi_scores_v2)
    .Inputs({"pre_ids", "logits", "penalty_scores", "frequency_scores", "presence_scores",
             "temperatures", "bad_tokens", "cur_len", "min_len", "eos_token_id"})
    .Outputs({"logits_out"})
    .SetInplaceMap({{"logits", "logits_out"}})
    .SetKernelFn(PD_KERNEL(TokenPenaltyV2));
