// What a step's stages share, and the table of their implementations.
#pragma once

#include "native.h"

namespace paddle_stacks {

constexpr int kPanel = PS_PANEL;
constexpr int kBlock = PS_BLOCK;
constexpr int kChunk = 512;  // positions whose softmax is computed together
constexpr int kRows = 240;   // tokens of a panel's product at a time: a multiple of all tiles
constexpr int kDepth = 256;  // inputs of a panel's product at a time, where there are many tokens
constexpr int kLoras = 3;    // projections with the same input

inline int64_t Padded(int64_t n) { return (n + kPanel - 1) / kPanel * kPanel; }

// Consecutive tokens of one sequence, of whose rows (token x query head of a key/value head)
// one task computes some.
struct Group {
  int token;    // of row 0
  int row;      // the first
  int rows;
  int longest;  // positions that its last row attends to
};

struct AttentionTask {
  int group, head, chunk;
};

// Consecutive tokens with the same adapter.
struct Run {
  int begin, end;
  const PsLora* adapter;
};

// A step's state; rows are padded to 32 with zeros.
struct Step {
  const PsModel* model;
  const PsBatch* batch;
  int layer;
  float *hidden, *normal, *query, *key, *value, *mixed, *activation, *final;
  float* lora[kLoras];  // [tokens][lora_width]
  int64_t lora_width;
  const Run* runs;
  int num_runs;
  const Group* groups;
  const AttentionTask* tasks;
  int chunks;       // of the longest sequence
  float* partials;  // [tokens][heads][chunks][padded head_dim + kPanel]: mixed values, max, sum
};

// Floats of scratch memory for each thread.
inline int64_t ScratchFloats(const PsModel& m) {
  return 4LL * kRows * kPanel               // two panels of two products
         + 1LL * kRows * kPanel             // an adapter's part
         + 1LL * kDepth * kPanel            // weights as floats
         + 16LL * kChunk                    // scores
         + 2 * 16LL * Padded(m.head_dim);   // queries and mixed values
}

// Each function computes the tasks [begin, end) of a stage.
struct Kernels {
  int attention_rows;  // of a group, at most
  void (*embed)(const Step&, int begin, int end, float* scratch);           // tokens
  void (*attention_norm)(const Step&, int begin, int end, float* scratch);  // tokens
  void (*qkv_lora)(const Step&, int begin, int end, float* scratch);        // runs x 3
  void (*qkv)(const Step&, int begin, int end, float* scratch);             // pairs of panels
  void (*rotate)(const Step&, int begin, int end, float* scratch);          // tokens
  void (*attend)(const Step&, int begin, int end, float* scratch);          // tasks
  void (*mix)(const Step&, int begin, int end, float* scratch);             // tokens
  void (*output_lora)(const Step&, int begin, int end, float* scratch);     // runs
  void (*output)(const Step&, int begin, int end, float* scratch);          // pairs of panels
  void (*mlp_norm)(const Step&, int begin, int end, float* scratch);        // tokens
  void (*gate_up_lora)(const Step&, int begin, int end, float* scratch);    // runs x 2
  void (*gate_up)(const Step&, int begin, int end, float* scratch);         // pairs of panels
  void (*down_lora)(const Step&, int begin, int end, float* scratch);       // runs
  void (*down)(const Step&, int begin, int end, float* scratch);            // pairs of panels
  void (*final_norm)(const Step&, int begin, int end, float* scratch);      // outputs
  void (*head)(const Step&, int begin, int end, float* scratch);            // pairs of panels
};

inline int PanelPairs(int outputs) { return static_cast<int>((Padded(outputs) / kPanel + 1) / 2); }

namespace plain {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}

}  // namespace paddle_stacks
