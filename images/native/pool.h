// Threads that carry out a function together, and wait for each other within it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace paddle_stacks {

// Threads wait for the last one: a while on the processor, then asleep, so that a thread that
// shares its core with another program is not kept from running by those that wait for it.
class Barrier {
 public:
  void Wait(int threads);

 private:
  std::atomic<int> arrived_{0};
  std::atomic<int> generation_{0};
  std::atomic<int> sleeping_{0};
};

class Pool {
 public:
  // The process's pool; after a fork the child's own.
  static Pool& Get();

  // Calls work(context, thread) on `threads` threads, the caller's being thread 0. Callers take
  // turns.
  void Run(int threads, void (*work)(void* context, int thread), void* context);

 private:
  void Loop(int thread, long seen);

  std::mutex turn_;  // of callers
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  void (*work_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int wanted_ = 0;
  int running_ = 0;
  std::atomic<long> generation_{0};
};

}  // namespace paddle_stacks
