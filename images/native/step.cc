// A step: checks the batch, plans the attention's tasks, and has the threads carry out the
// stages one after the other.

#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace paddle_stacks {
namespace {

// What ps_step returns.
enum Fault {
  kOutOfMemory = -1,
  kBadToken = -2,
  kBadSequence = -3,
  kBadPosition = -4,
  kBadOutput = -5,
  kBadSizes = -6,
  kBadInstructionSet = -7,
};

bool Supported(int32_t instruction_set) {
  switch (instruction_set) {
    case PS_PLAIN:
      return true;
#if defined(__x86_64__)
    // GCC's answers include whether the operating system saves the registers.
    case PS_AVX2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case PS_AVX512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    default:
      return false;
  }
}

int32_t Best() {
  if (getenv("PADDLE_STACKS_PLAIN_X86")) return PS_PLAIN;
  return Supported(PS_AVX512) ? PS_AVX512 : Supported(PS_AVX2) ? PS_AVX2 : PS_PLAIN;
}

const Kernels& KernelsFor(int32_t instruction_set) {
#if defined(__x86_64__)
  if (instruction_set == PS_AVX512) return avx512::kKernels;
  if (instruction_set == PS_AVX2) return avx2::kKernels;
#endif
  return plain::kKernels;
}

int32_t Check(const PsModel& m, const PsBatch& b) {
  if (b.tokens < 1 || b.sequences < 1 || b.outputs < 0 || b.blocks_per_sequence < 1)
    return kBadSizes;
  for (int i = 0; i < b.tokens; ++i) {
    if (b.token[i] < 0 || b.token[i] >= m.vocabulary) return kBadToken;
    if (b.sequence[i] < 0 || b.sequence[i] >= b.sequences) return kBadSequence;
    if (b.position[i] < 0 || b.position[i] >= m.context ||
        b.position[i] / kBlock >= b.blocks_per_sequence)
      return kBadPosition;
    if (i && b.sequence[i] == b.sequence[i - 1] && b.position[i] != b.position[i - 1] + 1)
      return kBadPosition;
  }
  std::vector<bool> seen(b.sequences);
  for (int i = 0; i < b.tokens; ++i) {
    if (i && b.sequence[i] == b.sequence[i - 1]) continue;
    if (seen[b.sequence[i]]) return kBadSequence;  // its tokens do not follow each other
    seen[b.sequence[i]] = true;
    int last = i;
    while (last + 1 < b.tokens && b.sequence[last + 1] == b.sequence[i]) ++last;
    for (int block = 0; block <= b.position[last] / kBlock; ++block)
      if (!b.blocks[int64_t{b.sequence[i]} * b.blocks_per_sequence + block]) return kBadPosition;
  }
  for (int i = 0; i < b.outputs; ++i)
    if (b.output[i] < 0 || b.output[i] >= b.tokens) return kBadOutput;
  return 0;
}

// Memory that is kept from one step to the next.
class Workspace {
 public:
  float* Take(int64_t floats) {
    floats = (floats + 15) / 16 * 16 + 16;
    wanted_ += floats;
    if (at_ + floats > size_) return nullptr;
    float* p = memory_ + at_;
    at_ += floats;
    return p;
  }
  void Begin() { at_ = wanted_ = 0; }
  // Returns whether memory was too small; then everything is to be taken again.
  bool Grow() {
    if (wanted_ <= size_) return false;
    free(memory_);
    memory_ = nullptr;
    size_ = 0;
    void* p = nullptr;
    if (posix_memalign(&p, 64, static_cast<size_t>(wanted_) * sizeof(float)))
      throw std::bad_alloc();
    memory_ = static_cast<float*>(p);
    size_ = wanted_;
    return true;
  }
  // A long prompt's memory is not kept while answers are generated.
  void Trim(int64_t floats) {
    if (size_ <= floats) return;
    free(memory_);
    memory_ = nullptr;
    size_ = 0;
  }
  ~Workspace() { free(memory_); }

 private:
  float* memory_ = nullptr;
  int64_t size_ = 0, at_ = 0, wanted_ = 0;
};

constexpr int64_t kKeptFloats = 64 << 20;  // 256 MiB

typedef void (*Stage)(const Step&, int begin, int end, float* scratch);

struct Work {
  Step step;
  const Kernels* kernels;
  int threads, num_tasks;
  std::vector<std::atomic<int>> next;  // task of each stage
  std::vector<float*> scratch;
  std::vector<Group> groups;
  std::vector<AttentionTask> tasks;
  std::vector<Run> runs;
  bool has_adapters = false;
  Barrier barrier;
};

constexpr int kStagesPerLayer = 13;

void Plan(const PsModel& m, const PsBatch& b, Work* work) {
  const int shared = m.heads / m.kv_heads, most = work->kernels->attention_rows;
  int longest = 0;
  for (int begin = 0, end; begin < b.tokens; begin = end) {
    end = begin + 1;
    while (end < b.tokens && b.sequence[end] == b.sequence[begin]) ++end;
    const PsLora* adapter = b.adapter ? b.adapter[b.sequence[begin]] : nullptr;
    work->has_adapters |= adapter != nullptr;
    if (!work->runs.empty() && work->runs.back().adapter == adapter)
      work->runs.back().end = end;
    else
      work->runs.push_back({begin, end, adapter});
    const int rows = (end - begin) * shared;
    for (int row = 0; row < rows; row += most) {
      const int count = std::min(most, rows - row);
      const int seen = b.position[begin + (row + count - 1) / shared] + 1;
      longest = std::max(longest, seen);
      const int group = static_cast<int>(work->groups.size());
      work->groups.push_back({begin, row, count, seen});
      for (int head = 0; head < m.kv_heads; ++head)
        for (int chunk = 0; chunk * kChunk < seen; ++chunk)
          work->tasks.push_back({group, head, chunk});
    }
  }
  Step& s = work->step;
  s.groups = work->groups.data();
  s.tasks = work->tasks.data();
  s.runs = work->runs.data();
  s.num_runs = static_cast<int>(work->runs.size());
  s.chunks = (longest + kChunk - 1) / kChunk;
  s.lora_width = 0;
  if (work->has_adapters)
    for (const Run& run : work->runs)
      for (int i = 0; run.adapter && i < m.layers * PS_PROJECTIONS; ++i)
        s.lora_width = std::max(s.lora_width, Padded(run.adapter[i].down.outputs));
}

void Allocate(const PsModel& m, const PsBatch& b, Work* work, Workspace* memory) {
  Step& s = work->step;
  const int64_t n = b.tokens;
  do {
    memory->Begin();
    s.hidden = memory->Take(n * Padded(m.hidden));
    s.normal = memory->Take(n * Padded(m.hidden));
    s.query = memory->Take(n * Padded(int64_t{m.heads} * m.head_dim));
    s.key = memory->Take(n * Padded(int64_t{m.kv_heads} * m.head_dim));
    s.value = memory->Take(n * Padded(int64_t{m.kv_heads} * m.head_dim));
    s.mixed = memory->Take(n * Padded(int64_t{m.heads} * m.head_dim));
    s.activation = memory->Take(n * Padded(m.intermediate));
    s.final = memory->Take(int64_t{b.outputs} * Padded(m.hidden));
    for (float*& lora : s.lora) lora = memory->Take(n * s.lora_width);
    s.partials = memory->Take(n * m.heads * s.chunks * (Padded(m.head_dim) + kPanel));
    for (float*& scratch : work->scratch) scratch = memory->Take(ScratchFloats(m));
  } while (memory->Grow());
}

// One thread's part of all stages.
class Worker {
 public:
  Worker(Work* work, int thread)
      : work_(*work), scratch_(work->scratch[thread]), step_(work->step) {}

  void Run() {
    const Kernels& k = *work_.kernels;
    const PsModel& m = *step_.model;
    const PsBatch& b = *step_.batch;
    const int tokens = b.tokens, runs = work_.has_adapters ? step_.num_runs : 0;
    const int hidden = PanelPairs(m.hidden), tasks = static_cast<int>(work_.tasks.size());
    Do(k.embed, tokens);
    for (step_.layer = 0; step_.layer < m.layers; ++step_.layer) {
      const PsLayer& layer = m.layer[step_.layer];
      Do(k.attention_norm, tokens);
      Do(k.qkv_lora, runs * 3);
      Do(k.qkv, PanelPairs(layer.linear[PS_Q].outputs) + 2 * PanelPairs(layer.linear[PS_K].outputs));
      Do(k.rotate, tokens);
      Do(k.attend, tasks);
      Do(k.mix, tokens);
      Do(k.output_lora, runs);
      Do(k.output, hidden);
      Do(k.mlp_norm, tokens);
      Do(k.gate_up_lora, runs * 2);
      Do(k.gate_up, PanelPairs(m.intermediate));
      Do(k.down_lora, runs);
      Do(k.down, hidden);
    }
    Do(k.final_norm, b.outputs);
    Do(k.head, b.outputs ? PanelPairs(m.vocabulary) : 0);
  }

 private:
  // Threads take parts of a stage as they get to it: one that is slower takes fewer.
  void Do(Stage stage, int count) {
    std::atomic<int>& next = work_.next[stage_++];
    if (!count) return;
    const int part = std::max(1, count / (work_.threads * 8));
    for (;;) {
      const int begin = next.fetch_add(part, std::memory_order_relaxed);
      if (begin >= count) break;
      stage(step_, begin, std::min(begin + part, count), scratch_);
    }
    work_.barrier.Wait(work_.threads);
  }

  Work& work_;
  float* scratch_;
  Step step_;  // a copy: each thread counts its layers
  int stage_ = 0;
};

int32_t Compute(const PsModel& m, const PsBatch& b, int threads, int32_t instruction_set) {
  if (instruction_set == PS_AUTO) instruction_set = ps_instruction_set();
  if (!Supported(instruction_set)) return kBadInstructionSet;
  if (const int32_t fault = Check(m, b)) return fault;
  // Callers take turns; so does the memory.
  static std::mutex mutex;
  static Workspace* memory = new Workspace;
  std::lock_guard<std::mutex> lock(mutex);
  Work work;
  work.kernels = &KernelsFor(instruction_set);
  work.threads = std::max(1, threads);
  work.step.model = &m;
  work.step.batch = &b;
  work.scratch.resize(work.threads);
  work.next = std::vector<std::atomic<int>>(m.layers * kStagesPerLayer + 3);
  Plan(m, b, &work);
  Allocate(m, b, &work, memory);
  Pool::Get().Run(
      work.threads,
      [](void* context, int thread) { Worker(static_cast<Work*>(context), thread).Run(); }, &work);
  memory->Trim(kKeptFloats);
  return 0;
}

}  // namespace
}  // namespace paddle_stacks

extern "C" {

int32_t ps_abi() { return PS_ABI; }

int32_t ps_instruction_set() {
  static const int32_t best = paddle_stacks::Best();
  return best;
}

int64_t ps_block_bytes(const PsModel* m) {
  const int64_t head = int64_t{m->head_dim} * PS_BLOCK +
                       PS_BLOCK * paddle_stacks::Padded(m->head_dim);
  return head * m->layers * m->kv_heads * static_cast<int64_t>(sizeof(float));
}

int32_t ps_step(const PsModel* model, const PsBatch* batch, int32_t threads,
                int32_t instruction_set) {
  try {
    return paddle_stacks::Compute(*model, *batch, threads, instruction_set);
  } catch (const std::exception&) {
    return paddle_stacks::kOutOfMemory;
  }
}

}  // extern "C"
