#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace lynx {
namespace {

// How long a worker waits for the next loop before it sleeps. Between two loops of a decode step there are some tens of
// microseconds of other work, and waking a sleeping thread costs as much.
constexpr int kSpins = 2000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int allowed_processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1;
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count > 0 ? static_cast<int>(count) : 1;
}

std::atomic<int> chosen_count{0};

// The items that one thread has left, in order. Threads that have none left take items from its end.
class alignas(64) Range {
 public:
  void set(Run run) { both_ = packed(run); }

  Run left() const { return unpacked(both_); }

  // Takes the first items that are left: at most `most`, and fewer towards the end. The run is empty if none are left.
  Run take(int64_t most) {
    return cut([&](Run left) { return left.begin + std::min(most, (left.size() + kTakes - 1) / kTakes); }, true);
  }

  // Moves the second half, or the only item, to the empty range `thief`.
  void halve(Range& thief) {
    thief.set(cut([](Run left) { return left.begin + left.size() / 2; }, false));
  }

 private:
  static constexpr int64_t kTakes = 4;

  // Takes the items before the place at(left), or those from it on.
  template <class Place>
  Run cut(const Place& at, bool before) {
    uint64_t both = both_;
    while (true) {
      const Run left = unpacked(both);
      const int64_t place = at(left);
      const Run first{left.begin, place}, second{place, left.end};
      if (both_.compare_exchange_weak(both, packed(before ? second : first))) return before ? first : second;
    }
  }

  static uint64_t packed(Run run) { return static_cast<uint64_t>(run.end) << 32 | static_cast<uint64_t>(run.begin); }
  static Run unpacked(uint64_t both) { return {static_cast<uint32_t>(both), static_cast<int64_t>(both >> 32)}; }

  std::atomic<uint64_t> both_{0};
};
constexpr int64_t kMostItems = UINT32_MAX;

class Pool {
 public:
  explicit Pool(int workers) : ranges_(workers + 1) {
    threads_.reserve(workers);
    try {
      for (int i = 0; i < workers; ++i) threads_.emplace_back([this, i] { work(ranges_[i + 1]); });
    } catch (...) {
      stop();
      throw;
    }
  }

  ~Pool() { stop(); }

  int workers() const { return static_cast<int>(threads_.size()); }

  void run(int64_t count, int64_t most, Body body, const void* context) {
    most_ = most;
    body_ = body;
    context_ = context;
    // Neighbouring items are mostly neighbours in memory, and memory is read fastest in long stretches.
    const int64_t threads = static_cast<int64_t>(ranges_.size());
    for (int64_t i = 0; i < threads; ++i) ranges_[i].set({count * i / threads, count * (i + 1) / threads});
    open_ = true;
    announce();
    take_runs(ranges_[0]);
    // A worker first counts itself in and then looks whether the loop is open, so none can join after this.
    open_ = false;
    for (int spins = 0; joined_ != 0; ++spins) {
      if (spins < kSpins) pause();
      else sched_yield();
    }
  }

 private:
  void stop() {
    stopping_ = true;
    announce();
    for (std::thread& thread : threads_) thread.join();
  }

  void announce() {
    ++generation_;
    if (sleepers_ > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
    }
  }

  Run take(Range& own) {
    while (true) {
      if (const Run run = own.take(most_); run.size() > 0) return run;
      Range* fullest = &own;
      int64_t most = 0;
      for (Range& other : ranges_) {
        if (const int64_t left = other.left().size(); left > most) most = left, fullest = &other;
      }
      if (most == 0) return {};
      fullest->halve(own);
    }
  }

  void take_runs(Range& own) {
    for (Run run = take(own); run.size() > 0; run = take(own)) {
      const Run left = own.left();
      body_(context_, run, left.size() > 0 ? left.begin : -1);
    }
  }

  void work(Range& own) {
    uint64_t seen = 0;
    while (true) {
      for (int spins = 0; generation_ == seen && spins < kSpins; ++spins) pause();
      if (generation_ == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleepers_;
        wake_.wait(lock, [&] { return generation_ != seen; });
        --sleepers_;
      }
      seen = generation_;
      if (stopping_) return;
      ++joined_;
      if (open_) take_runs(own);
      --joined_;
    }
  }

  // All accesses are sequentially consistent, because announce() and work() each write one of these and then read
  // another.
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> sleepers_{0};
  alignas(64) std::atomic<int> joined_{0};
  std::atomic<bool> open_{false};
  std::atomic<bool> stopping_{false};
  int64_t most_ = 1;
  Body body_ = nullptr;
  const void* context_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Range> ranges_;  // the first belongs to the thread that runs the loop
  std::vector<std::thread> threads_;
};

// Neither is ever destroyed, because other threads may still run loops while the process ends.
std::mutex* pool_mutex = new std::mutex;
Pool* pool = nullptr;

// A forked child has none of the threads, and the mutex that it inherits may be locked. It starts anew, and leaks both.
void forget_pool() {
  pool_mutex = new std::mutex;
  pool = nullptr;
}

}  // namespace

int thread_count() {
  const int chosen = chosen_count;
  if (chosen > 0) return chosen;
  static const int allowed = allowed_processors();
  return allowed;
}

void set_thread_count(int count) { chosen_count = count > 0 ? count : 0; }

void parallel_for(int64_t count, int64_t most, Body body, const void* context) {
  const int threads = thread_count();
  if (threads > 1 && count > 1 && count <= kMostItems) {
    std::unique_lock<std::mutex> lock(*pool_mutex, std::try_to_lock);
    if (lock.owns_lock()) {
      static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
      (void)registered;
      if (pool != nullptr && pool->workers() != threads - 1) {
        delete pool;
        pool = nullptr;
      }
      try {
        if (pool == nullptr) pool = new Pool(threads - 1);
      } catch (const std::exception&) {
        // The process may not start any more threads.
      }
      if (pool != nullptr) {
        pool->run(count, most, body, context);
        return;
      }
    }
  }
  for (int64_t item = 0; item < count; item += most) {
    const int64_t end = std::min(count, item + most);
    body(context, {item, end}, end < count ? end : -1);
  }
}

}  // namespace lynx
