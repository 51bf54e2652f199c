#include "read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "pages.h"
#include "threads.h"

namespace lynx {
namespace {

constexpr int64_t kPart = 1 << 20;

typedef uint64_t Line __attribute__((vector_size(64)));

// Prefetches memory `Ahead` bytes ahead. If that is 0, only the hardware prefetches.
template <int64_t Ahead>
uint64_t sum_of(const char* part) {
  Line sums[4] = {};
  for (int64_t at = 0; at < kPart; at += sizeof(sums)) {
    Line lines[4];
    std::memcpy(lines, part + at, sizeof(lines));
    for (int i = 0; i < 4; ++i) {
      if (Ahead > 0) __builtin_prefetch(part + at + Ahead + i * 64);
      sums[i] += lines[i];
    }
  }
  const Line total = sums[0] + sums[1] + sums[2] + sums[3];
  return total[0] ^ total[7];
}

}  // namespace

double read_bandwidth(int64_t bytes, int passes) {
  const int64_t parts = std::max<int64_t>(1, bytes / kPart);
  const LentPages memory(parts * kPart);
  if (memory.data() == nullptr) return 0;
  double best = 0;
  std::atomic<uint64_t> used{0};
  const auto read = [&](uint64_t (*sum)(const char*)) {
    const auto start = std::chrono::steady_clock::now();
    parallel(parts, [&](int64_t part, int64_t) { used += sum(memory.data() + part * kPart); });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(parts * kPart) / seconds.count());
  };
  // The fastest distance differs between processors.
  for (int pass = 0; pass < passes; ++pass) {
    for (const auto sum : {sum_of<0>, sum_of<1024>, sum_of<4096>, sum_of<16384>}) read(sum);
  }
  // The result depends on the sums, so that the compiler cannot leave the reading out.
  return used == 1 ? 0 : best;
}

}  // namespace lynx
