// A pool of threads for loops of a few microseconds: workers spin for a moment after a loop, then sleep.
#pragma once

#include <cstdint>

namespace lynx {

// Threads that loops run on, the caller's included: the processors that this process may use, or what was set.
int thread_count();

// Sets `thread_count`; 0 goes back to the processors that the process may use. Takes effect at the next loop.
void set_thread_count(int count);

using Body = void (*)(const void* context, int64_t item, int64_t following);

// Calls body(context, item, following) once for each item in [0, count) and returns when all are done. Every thread begins
// with a stretch of its own, in order, and takes from the others' when it is through. `following` is the item that the
// same thread takes next, so that it can be prefetched, or -1. A caller that finds the pool taken by another runs its loop
// alone.
void parallel_for(int64_t count, Body body, const void* context);

template <class Function>
void parallel(int64_t count, const Function& function) {
  parallel_for(
      count,
      [](const void* context, int64_t item, int64_t following) {
        (*static_cast<const Function*>(context))(item, following);
      },
      &function);
}

}  // namespace lynx
