#include "pool.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define PS_PAUSE() _mm_pause()
#else
#define PS_PAUSE() ((void)0)
#endif

namespace paddle_stacks {
namespace {

constexpr int kSpins = 4000;        // about 100 µs, more than a stage of a small model takes
constexpr int kWorkerSpins = 2000;  // between two steps the caller chooses tokens

int* Address(std::atomic<int>& value) { return reinterpret_cast<int*>(&value); }

}  // namespace

void Barrier::Wait(int threads) {
  if (threads == 1) return;
  const int generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst))
      syscall(SYS_futex, Address(generation_), FUTEX_WAKE_PRIVATE, threads, nullptr, nullptr, 0);
    return;
  }
  for (int i = 0; i < kSpins; ++i) {
    if (generation_.load(std::memory_order_acquire) != generation) return;
    PS_PAUSE();
  }
  sleeping_.fetch_add(1, std::memory_order_seq_cst);
  while (generation_.load(std::memory_order_seq_cst) == generation)
    syscall(SYS_futex, Address(generation_), FUTEX_WAIT_PRIVATE, generation, nullptr, nullptr, 0);
  sleeping_.fetch_sub(1, std::memory_order_relaxed);
}

Pool& Pool::Get() {
  static std::mutex mutex;
  static Pool* pool = nullptr;
  static pid_t owner = 0;
  std::lock_guard<std::mutex> lock(mutex);
  // A fork copies the pool, not its threads. The copy's mutexes can be locked: it is left alone.
  if (owner != getpid()) {
    pool = new Pool;
    owner = getpid();
  }
  return *pool;
}

void Pool::Run(int threads, void (*work)(void* context, int thread), void* context) {
  std::lock_guard<std::mutex> turn(turn_);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    while (static_cast<int>(threads_.size()) < threads - 1) {
      const int thread = static_cast<int>(threads_.size()) + 1;
      threads_.emplace_back(&Pool::Loop, this, thread, generation_.load());
      threads_.back().detach();
    }
    work_ = work;
    context_ = context;
    wanted_ = threads;
    running_ = threads - 1;
    generation_.fetch_add(1);
  }
  if (threads > 1) wake_.notify_all();
  work(context, 0);
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [this] { return running_ == 0; });
}

void Pool::Loop(int thread, long seen) {
  for (;;) {
    for (int i = 0; i < kWorkerSpins && generation_.load(std::memory_order_acquire) == seen; ++i)
      PS_PAUSE();
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, [this, seen] { return generation_.load() != seen; });
    seen = generation_.load();
    if (thread >= wanted_) continue;
    void (*const work)(void*, int) = work_;
    void* const context = context_;
    lock.unlock();
    work(context, thread);
    lock.lock();
    if (--running_ == 0) done_.notify_one();
  }
}

}  // namespace paddle_stacks
