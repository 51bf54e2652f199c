// The weights that a tile prefetches while it computes. Products prefetch by hand, because hardware prefetchers stop at
// the end of a page and start again with every row of a weight.
#pragma once

#include <stdint.h>

namespace lynx {
namespace {

// The prefetches of one tile. In each step a tile reads some cache lines of weights, and may request as many lines from
// `ahead` on. Tiles that read the same weights share the lines at `ahead`: a tile makes its first request at step
// `phase`, and there are `between` steps of other tiles between two of its requests.
struct PrefetchPlan {
  const char* ahead;
  int phase, between;
};

// One tile requests all lines.
constexpr PrefetchPlan all_lines(const void* ahead) { return {static_cast<const char*>(ahead), 0, 0}; }

// One of `tiles` tiles requests its share of the lines.
constexpr PrefetchPlan shared_lines(const void* ahead, int tile, int tiles) {
  return {static_cast<const char*>(ahead), tile, tiles - 1};
}

// How a processor prefetches best, as measured with `benchmarks.kernels.product_bandwidth`.
struct PrefetchSettings {
  // Of __builtin_prefetch: 3 loads a line into the first-level cache, and 2 into the second-level cache.
  int locality;
  // How often the first row group requests its own weights again: kSoon bytes before it reads them, then at half that
  // distance, and so on.
  int repeats;
  // Up to this many row groups, with up to this many bytes of packed rows, each request all lines. A processor may drop
  // a request while many are pending.
  int most_groups;
  int64_t most_row_bytes;

  static constexpr int kSoon = 1024;
};
#if defined(__AVX512BF16__) && !LYNX_TILES
// Measured on AMD's Zen 5.
constexpr PrefetchSettings prefetch_settings(int) { return {3, 0, 1 << 30, 72 << 10}; }
#else
// Measured on AMD's Zen 3. Weights of one byte keep the processor busier than memory. With more than a few row groups,
// arithmetic takes longer than reading.
constexpr PrefetchSettings prefetch_settings(int weight_bytes) { return {2, weight_bytes > 1 ? 3 : 1, 4, INT64_MAX}; }
#endif

}  // namespace
}  // namespace lynx
