// top_p_sampling: draw a token of each row from the most probable ones that reach top_p.
#include <algorithm>
#include <numeric>
#include <random>

#include "paddle/phi/core/generator.h"
#include "tensors.h"

namespace paddle_stacks {
namespace {

// Returns an index of `order`, whose first `count` entries hold `total` of the probability.
int64_t Draw(const std::vector<float>& probabilities, const std::vector<int64_t>& order,
             int64_t count, double total, std::mt19937_64* engine) {
  double left = std::uniform_real_distribution<double>(0, total)(*engine);
  for (int64_t i = 0; i + 1 < count; ++i) {
    left -= probabilities[order[i]];
    if (left < 0) return i;
  }
  return count - 1;
}

}  // namespace

// The engine is seeded by topp_seed for each row, else by seed, else it is Paddle's own, which
// paddle.seed() sets. Draws differ from a GPU's for the same seed; the distribution is the same.
template <typename T, typename Context>
void TopPSampling(const Context& context, const DenseTensor& x, const DenseTensor& ps,
                  const Optional& threshold, const Optional& topp_seed, int seed, int k,
                  const std::string& mode, DenseTensor* out, DenseTensor* ids,
                  DenseTensor* topk_scores, DenseTensor* topk_ids) {
  Require(x.dims().size() == 2,
          [&] { return "top_p_sampling: x: expected 2 dimensions, got " + x.dims().to_str(); });
  const int64_t rows = x.dims()[0], vocabulary = x.dims()[1];
  Require(vocabulary > 0, [] { return "top_p_sampling: x has no columns"; });
  RequireLength("top_p_sampling: ps", ps.numel(), rows);
  Require(mode == "truncated" || mode == "non-truncated",
          [&] { return "top_p_sampling: mode must be truncated or non-truncated, got " + mode; });
  Require(0 <= k && k <= vocabulary,
          [&] { return "top_p_sampling: k is not in [0, columns]: " + std::to_string(k); });
  const auto thresholds = Floats(threshold, "top_p_sampling: threshold", rows);
  if (topp_seed) {
    RequireType("top_p_sampling: topp_seed", *topp_seed, DataType::INT64);
    RequireLength("top_p_sampling: topp_seed", topp_seed->numel(), rows);
  }

  const Writer scores = AllocateFloats(context, out, x.dtype());
  int64_t* chosen = context.template Alloc<int64_t>(ids);
  // A static graph that does not use them has no tensors for the k most probable.
  const bool has_top = topk_scores != nullptr && topk_ids != nullptr;
  const Writer top_scores = has_top ? AllocateFloats(context, topk_scores, x.dtype())
                                    : Writer(nullptr, DataType::FLOAT32);
  int64_t* top_ids = has_top ? context.template Alloc<int64_t>(topk_ids) : nullptr;

  std::mt19937_64 seeded(seed);
  std::shared_ptr<std::mt19937_64> shared = phi::DefaultCPUGenerator()->GetCPUEngine();
  std::vector<float> probabilities(vocabulary);
  std::vector<int64_t> order(vocabulary);
  for (int64_t r = 0; r < rows; ++r) {
    Read(x).Copy(r * vocabulary, vocabulary, probabilities.data());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return probabilities[a] > probabilities[b]; });
    const float top_p = Read(ps).At(r);
    const float least = thresholds.empty() ? 0.f : thresholds[r];
    int64_t count = 0;
    double total = 0;
    while (count < vocabulary && (count == 0 || (mode == "non-truncated" || total < top_p))) {
      const float probability = probabilities[order[count]];
      if (count > 0 && probability < least) break;
      total += probability;
      ++count;
    }
    Require(total > 0 && std::isfinite(total), [&] {
      return "top_p_sampling: row " + std::to_string(r) + " of x holds no probabilities";
    });
    if (topp_seed) seeded.seed(topp_seed->data<int64_t>()[r]);
    std::mt19937_64* engine = topp_seed || seed >= 0 ? &seeded : shared.get();
    const int64_t token = order[Draw(probabilities, order, count, total, engine)];
    chosen[r] = token;
    scores.Row(r, 1, &probabilities[token]);
    for (int64_t i = 0; has_top && i < k; ++i) {
      top_ids[r * k + i] = order[i];
      top_scores.Row(r * k + i, 1, &probabilities[order[i]]);
    }
  }
}

}  // namespace paddle_stacks

PD_REGISTER_KERNEL(top_p_sampling, CPU, ALL_LAYOUT, paddle_stacks::TopPSampling, float,
                   phi::dtype::float16, phi::dtype::bfloat16) {}
