// Softmax, rotary embedding and attention of one query, in float32.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "simd.h"

namespace paddle_stacks {

// A row that is masked everywhere becomes zeros.
inline void Softmax(float* scores, int64_t n) {
  const float max = n > 0 ? *std::max_element(scores, scores + n) : 0;
  if (n == 0 || max == -std::numeric_limits<float>::infinity()) {
    std::fill_n(scores, n, 0.f);
    return;
  }
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    scores[i] = std::exp(scores[i] - max);
    sum += scores[i];
  }
  const float inverse = 1.f / sum;
  for (int64_t i = 0; i < n; ++i) scores[i] *= inverse;
}

// Rotates a head in place. GPT-NeoX pairs element i with i + head_dim / 2, the other style
// pairs 2i with 2i + 1. `cosines` and `sines` are the position's row of the table: head_dim
// elements, or head_dim / 2 with one for each pair.
inline void Rotate(float* head, const float* cosines, const float* sines, int64_t head_dim,
                   bool is_neox, bool has_half_table) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const int64_t left = is_neox ? i : 2 * i;
    const int64_t right = is_neox ? i + half : 2 * i + 1;
    const int64_t l = has_half_table ? i : left;
    const int64_t r = has_half_table ? i : right;
    const float a = head[left], b = head[right];
    head[left] = a * cosines[l] - b * sines[l];
    head[right] = b * cosines[r] + a * sines[r];
  }
}

// Attention of one query over `length` keys. `key(i)` and `value(i)` return head_dim floats,
// valid until the next call; `scores` and `out` hold `length` and head_dim floats.
template <typename Key, typename Value, typename Mask>
void Attend(const float* query, int64_t length, int64_t head_dim, float scale, const Key& key,
            const Value& value, const Mask& mask, float* scores, float* out) {
  const Simd& simd = Simd::Get();
  for (int64_t i = 0; i < length; ++i) {
    scores[i] = simd.dot(query, key(i), head_dim) * scale + mask(i);
  }
  Softmax(scores, length);
  std::fill_n(out, head_dim, 0.f);
  for (int64_t i = 0; i < length; ++i) simd.axpy(scores[i], value(i), out, head_dim);
}

}  // namespace paddle_stacks
