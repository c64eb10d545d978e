// C ABI of the native CPU engine: one step of a Llama over a ragged batch.
//
// Weights are packed by the caller (entrypoints/native/packing.py) in panels of 32 outputs:
//
//   float32        [panels][inputs][32] floats
//   bfloat16       [panels][inputs][16] pairs; a pair has output j in its low half, j + 16 in
//                  its high one
//   int8           [panels][inputs][32] bytes; a scale for each output, [panels][32]
//   int8 group 32  the same bytes; a scale for each output and 32 inputs,
//                  [panels][ceil(inputs / 32)][32]
//
// The layout does not depend on the processor, so one file serves all of them. Outputs beyond
// the last one are zero, and vectors (norms, biases, …) are padded to 32 with zeros.
//
// Each output is one sum over its inputs in ascending order, and each score and each mixed
// value is one over fixed chunks of positions. So the logits of a token do not depend on what
// else is in the batch, how a prompt is split into steps, or the number of threads.
#pragma once

#include <stdint.h>

#pragma GCC visibility push(default)
extern "C" {

enum { PS_ABI = 1, PS_BLOCK = 32, PS_PANEL = 32 };

enum PsType { PS_FLOAT32 = 0, PS_BFLOAT16 = 1, PS_INT8 = 2, PS_INT8_GROUP32 = 3 };

enum PsInstructionSet { PS_AUTO = 0, PS_PLAIN = 1, PS_AVX2 = 2, PS_AVX512 = 3 };

struct PsLinear {
  const void* weight;
  const float* scales;  // null for floats
  const float* bias;    // null for none
  int32_t type;
  int32_t inputs;
  int32_t outputs;
};

// What is applied to the input of products: (x + shift) * smooth, rounded to multiples of
// `step` within -128 … 127. Null and 0 leave the input as it is.
struct PsInput {
  const float* shift;
  const float* smooth;
  float step;
};

enum PsProjection { PS_Q, PS_K, PS_V, PS_O, PS_GATE, PS_UP, PS_DOWN, PS_PROJECTIONS };

struct PsLayer {
  PsLinear linear[PS_PROJECTIONS];
  PsInput attention_input, output_input, mlp_input, down_input;
  const float *attention_norm, *attention_norm_bias, *mlp_norm, *mlp_norm_bias;
  const float *key_steps, *value_steps;  // [key/value heads], or null
};

struct PsModel {
  int32_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary, context;
  float epsilon;
  int32_t embedding_type;  // float32 or bfloat16 of `embedding`, [vocabulary][hidden]
  const void* embedding;   // null: the rows of `head`
  const float* norm;
  const float *cos, *sin;  // [context][head_dim / 2]
  PsLinear head;
  const PsLayer* layer;
};

// The factors of a LoRA adapter for each layer's projections, [layers][PS_PROJECTIONS]. The
// scaling is in `up`; a rank (`down.outputs`) of 0 means that the projection has none.
struct PsLora {
  PsLinear down, up;
};

// New tokens. Those of a sequence follow each other, by ascending positions.
//
// A block has the keys and values of 32 positions in all layers: for each layer and key/value
// head keys as [head_dim][32] and values as [32][head_dim padded to 32].
struct PsBatch {
  int32_t tokens, sequences, outputs, blocks_per_sequence;
  const int32_t* token;                // [tokens]
  const int32_t* sequence;             // [tokens]
  const int32_t* position;             // [tokens]
  const int32_t* output;               // [outputs] the tokens whose logits are wanted
  float* const* blocks;                // [sequences][blocks_per_sequence]
  const PsLora* const* adapter;        // [sequences], null for none; may be null itself
  float* logits;                       // [outputs][vocabulary]
};

int32_t ps_abi();

// The instruction set that PS_AUTO stands for: the processor's best, or PS_PLAIN where the
// environment has PADDLE_STACKS_PLAIN_X86.
int32_t ps_instruction_set();

int64_t ps_block_bytes(const PsModel* model);

// Returns 0, or a negative number where the batch is not valid (see the source) or memory is
// missing. May be called by several threads at once; calls take turns.
int32_t ps_step(const PsModel* model, const PsBatch* batch, int32_t threads,
                int32_t instruction_set);
}
