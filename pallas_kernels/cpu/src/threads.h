// A pool of threads for loops of a few microseconds. After a loop the workers spin for a moment, then they sleep. XLA
// has a pool of its own, but to wake its threads took 0.09 ms in a decode step, longer than many of our loops take.
#pragma once

#include <cstdint>

namespace lynx {

// The number of threads that loops run on, with the caller's. It is the number of processors that this process may use,
// or the number that was set.
int thread_count();

// Sets `thread_count`, from the next loop on. 0 restores the number of processors that the process may use.
void set_thread_count(int count);

// Items [begin, end) of a loop.
struct Run {
  int64_t begin = 0, end = 0;

  int64_t size() const { return end - begin; }
};

using Body = void (*)(const void* context, Run run, int64_t following);

// Calls body(context, run, following) with runs of at most `most` items, until each item in [0, count) was in one run,
// and returns when all calls are done. Every thread begins with a stretch of its own, in order, and then takes items
// from the others. `following` is the item that the same thread takes next, for prefetching, or -1. Another thread may
// still take it first. A caller that finds the pool in use by another caller runs its loop alone.
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
