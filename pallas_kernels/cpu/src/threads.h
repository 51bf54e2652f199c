// A pool of threads for loops of a few microseconds: workers spin for a moment after a loop, then sleep.
#pragma once

#include <cstdint>

namespace lynx {

// Threads that loops run on, the caller's included: the processors that this process may use, or what was set.
int thread_count();

// Sets `thread_count`; 0 goes back to the processors that the process may use. Takes effect at the next loop.
void set_thread_count(int count);

// Items [begin, end) of a loop.
struct Run {
  int64_t begin = 0, end = 0;

  int64_t size() const { return end - begin; }
};

using Body = void (*)(const void* context, Run run, int64_t following);

// Calls body(context, run, following) until each item in [0, count) was once in a run of `most` at most, and returns
// when all are done. Every thread begins with a stretch of its own, in order, and takes from the others' when it is
// through. `following` is the item that the same thread takes next, unless another is faster, so that it can be
// prefetched; or -1. A caller that finds the pool taken by another runs its loop alone.
void parallel_for(int64_t count, int64_t most, Body body, const void* context);

// function(run, following)
template <class Function>
void parallel_runs(int64_t count, int64_t most, const Function& function) {
  parallel_for(
      count, most,
      [](const void* context, Run run, int64_t following) { (*static_cast<const Function*>(context))(run, following); },
      &function);
}

// function(item, following)
template <class Function>
void parallel(int64_t count, const Function& function) {
  parallel_runs(count, 1, [&](Run run, int64_t following) { function(run.begin, following); });
}

}  // namespace lynx
