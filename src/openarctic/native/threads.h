// Our own pool. Workers sleep between steps, after they have looked out for the next one for a moment; inside a step all threads
// meet at a barrier that spins a little, then yields. (A barrier that only spins collapses when other processes want the cores.)
#pragma once
#include <atomic>
#include <chrono>
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
      job_ = &job;
      round_.fetch_add(1);  // sequentially consistent, as in `sleep`: one of the two sees the other
      if (sleeping_.load()) {
        { std::lock_guard<std::mutex> lock(mutex_); }
        wake_.notify_all();
      }
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
  static constexpr std::chrono::microseconds kLookout{50};

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  // Whether the next round began within a moment.
  bool spin(unsigned long seen) {
    const auto end = std::chrono::steady_clock::now() + kLookout;
    do {
      for (int i = 0; i < 16; i++) {
        if (round_.load(std::memory_order_acquire) != seen) return true;
        OPENARCTIC_PAUSE();
      }
    } while (std::chrono::steady_clock::now() < end);
    return false;
  }

  // False: the pool ends.
  bool sleep(unsigned long seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    sleeping_.fetch_add(1);
    wake_.wait(lock, [&] { return stopping_ || round_.load() != seen; });
    sleeping_.fetch_sub(1);
    return !stopping_;
  }

  void work(int id) {
    for (unsigned long seen = 0;; seen++) {
      if (!spin(seen) && !sleep(seen)) return;
      (*job_)(id);
      barrier();
    }
  }

  int size_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  const std::function<void(int)>* job_ = nullptr;
  bool stopping_ = false;
  alignas(64) std::atomic<unsigned long> round_{0};
  std::atomic<int> sleeping_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> generation_{0};
};

}  // namespace openarctic
