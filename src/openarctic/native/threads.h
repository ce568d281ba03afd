// Our own pool: workers sleep between steps; inside a step they meet at a barrier that spins a little, then sleeps.
// (One that sleeps at once leaves cores idle for as long as waking takes; one that spins for long, or yields, takes the core that the
// thread it waits for could have. Spinning between steps gains nothing. Numbers: docs/log.md.)
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

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
  // Whether this is a forked process: it has none of the threads, and the pool can only be left alone.
#if defined(__unix__) || defined(__APPLE__)
  bool is_forked() const { return getpid() != process_; }
#else
  bool is_forked() const { return false; }
#endif

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
      generation_.store(generation + 1);  // sequentially consistent, as in the wait: one of the two sees the other
      if (waiting_.load()) wake_all();
      return;
    }
    for (int spins = 0; generation_.load(std::memory_order_acquire) == generation; spins++) {
      if (spins < kSpins) OPENARCTIC_PAUSE();
      else wait_for(generation);
    }
  }

 private:
  static constexpr int kSpins = 2000;  // some 50 to 100 us: longer than most phases of a step

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

#if defined(__linux__)
  void wait_for(int generation) {
    waiting_.fetch_add(1);
    syscall(SYS_futex, &generation_, FUTEX_WAIT_PRIVATE, generation, nullptr, nullptr, 0);
    waiting_.fetch_sub(1);
  }
  void wake_all() { syscall(SYS_futex, &generation_, FUTEX_WAKE_PRIVATE, size_, nullptr, nullptr, 0); }
#else
  void wait_for(int) { std::this_thread::yield(); }
  void wake_all() {}
#endif

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
#if defined(__unix__) || defined(__APPLE__)
  pid_t process_ = getpid();
#endif
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  const std::function<void(int)>* job_ = nullptr;
  unsigned long round_ = 0;
  bool stopping_ = false;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> generation_{0};
  std::atomic<int> waiting_{0};
};

}  // namespace openarctic
