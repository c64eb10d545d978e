// Additive attention masks of [batch or 1, heads or 1, queries or 1, keys].
#pragma once

#include "tensors.h"

namespace paddle_stacks {

class Mask {
 public:
  // Checks that the mask covers `batch` rows, `heads` heads and `keys` keys.
  Mask(const Optional& mask, const char* what, int64_t batch, int64_t heads)
      : what_(what), reader_(nullptr, DataType::FLOAT32) {
    if (!mask) return;
    Require(mask->dims().size() == 4, [&] {
      return std::string(what) + ": expected 4 dimensions, got [" + mask->dims().to_str() + "]";
    });
    for (int i = 0; i < 4; ++i) dims_[i] = mask->dims()[i];
    Require((dims_[0] == 1 || dims_[0] >= batch) && (dims_[1] == 1 || dims_[1] == heads), [&] {
      return std::string(what) + ": expected [" + std::to_string(batch) + " or 1, " +
             std::to_string(heads) + " or 1, …], got [" + mask->dims().to_str() + "]";
    });
    reader_ = Read(*mask);
    is_given_ = true;
  }

  bool is_given() const { return is_given_; }

  void Cover(int64_t queries, int64_t keys) const {
    Require(!is_given_ || ((dims_[2] == 1 || dims_[2] >= queries) && dims_[3] >= keys), [&] {
      return what_ + ": " + std::to_string(dims_[2]) + " queries and " + std::to_string(dims_[3]) +
             " keys do not cover " + std::to_string(queries) + " and " + std::to_string(keys);
    });
  }

  // Copies the first `keys` values of a query's row; zeros where there is no mask.
  void Row(int64_t batch, int64_t head, int64_t query, int64_t keys, float* out) const {
    if (!is_given_) {
      std::fill_n(out, keys, 0.f);
      return;
    }
    const int64_t b = dims_[0] == 1 ? 0 : batch;
    const int64_t h = dims_[1] == 1 ? 0 : head;
    const int64_t q = dims_[2] == 1 ? 0 : query;
    reader_.Copy(((b * dims_[1] + h) * dims_[2] + q) * dims_[3], keys, out);
  }

 private:
  std::string what_;
  Reader reader_;
  int64_t dims_[4] = {0, 0, 0, 0};
  bool is_given_ = false;
};

}  // namespace paddle_stacks
