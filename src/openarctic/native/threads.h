// Our own pool: workers sleep between steps; inside a step they meet at a barrier that spins a little, then yields.
// (A barrier that only spins collapses when other processes want the cores. Workers that spin before they sleep gain nothing,
// docs/log.md: the next step comes later than they may spin, and who has spun is woken later on busy cores.)
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#define OPENARCTIC_PAUSE() _mm_pause()
#elif defined(__aarch64__)
#define OPENARCTIC_PAUSE() __asm__ volatile("yield")
#else
#define OPENARCTIC_PAUSE() ((void)0)
#endif

namespace openarctic {

class Pool {
 public:
  // Throws std::system_error where the system has no room for another thread.
  explicit Pool(int threads) : size_(threads) {
    try {
      for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { work(i); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Pool() { stop(); }
  int size() const { return size_; }

  // Calls job(i) on every thread i, the caller being thread 0, and returns when all have ended. The job must not throw.
  void run(const std::function<void(int)>& job) {
    if (size_ > 1) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
        job_ = &job;
        round_++;
      }
      wake_.notify_all();
    }
    job(0);
    barrier();
  }

  void barrier() {
    if (size_ == 1) return;
    int generation = generation_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.store(generation + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; generation_.load(std::memory_order_acquire) == generation; spins++) {
      if (spins < 4000) OPENARCTIC_PAUSE();
      else std::this_thread::yield();
    }
  }

 private:
  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  // False: the pool ends.
  bool sleep(unsigned long seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, [&] { return stopping_ || round_ != seen; });
    return !stopping_;
  }

  void work(int id) {
    for (unsigned long seen = 0; sleep(seen); seen++) {
      (*job_)(id);
      barrier();
    }
  }

  int size_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  const std::function<void(int)>* job_ = nullptr;
  unsigned long round_ = 0;
  bool stopping_ = false;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> generation_{0};
};

}  // namespace openarctic
