// Shared by the operations: scratch memory, rows of either dtype, and how the outputs of a weight are divided among
// threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "products.h"
#include "threads.h"

namespace lynx {

// Rows that are multiplied together. Packed, they stay in the second-level cache while the weights pass.
constexpr int64_t kRowBlock = 96;
// Outputs that a thread takes at once, at most.
constexpr int64_t kMostChunk = 128;

// A buffer that keeps its memory from call to call. Each use has one for each thread.
class Scratch {
 public:
  ~Scratch() { std::free(memory_); }

  template <class T>
  T* get(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    if (bytes > size_) {
      std::free(memory_);
      memory_ = std::aligned_alloc(64, bytes);
      size_ = memory_ == nullptr ? 0 : bytes;
      if (memory_ == nullptr) throw std::bad_alloc();
    }
    return static_cast<T*>(memory_);
  }

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
};

// Rows of float32 or bfloat16.
struct Rows {
  void* data;
  bool narrow;  // bfloat16

  int64_t bytes() const { return narrow ? 2 : 4; }
  void read(const InstructionSet& set, int64_t at, int64_t count, float* out) const {
    if (narrow) set.widen(static_cast<const uint16_t*>(data) + at, count, out);
    else std::memcpy(out, static_cast<const float*>(data) + at, 4 * count);
  }
  void write(const InstructionSet& set, int64_t at, int64_t count, const float* from) const {
    if (narrow) set.narrow(from, count, static_cast<uint16_t*>(data) + at);
    else std::memcpy(static_cast<float*>(data) + at, from, 4 * count);
  }
};

// y[t * stride + o] += bias[at + o] for t in [0, rows) and o in [0, outs). `outs` is at most kMostChunk, and `bias` may
// be null.
inline void add_bias(const InstructionSet& set, const void* bias, bool narrow, int64_t at, int64_t rows, int64_t outs,
                     float* y, int64_t stride) {
  if (bias == nullptr) return;
  float added[kMostChunk];
  Rows{const_cast<void*>(bias), narrow}.read(set, at, outs, added);
  for (int64_t t = 0; t < rows; ++t) set.add_scaled(1.0f, added, outs, y + t * stride);
}

// A stack of matrices [out, in], or one.
struct Weight {
  const void* data;
  WeightType type;
  int64_t outs;       // of a matrix, as stored
  int64_t row_bytes;  // of one output
  Scales scales;
  int64_t scale_bytes;  // of one output

  // The weights and the scales of output `out`, a multiple of Products::outs_multiple.
  const char* row(int64_t matrix, int64_t out) const {
    return static_cast<const char*>(data) + (matrix * outs + out) * row_bytes;
  }
  Scales scales_from(int64_t matrix, int64_t out) const {
    if (scales.data == nullptr) return scales;
    return {static_cast<const char*>(scales.data) + (matrix * outs + out) * scale_bytes, scales.half, scales.blocks};
  }
};

// Bytes of one output of `inner` inputs that have no scales, or one scale for all.
constexpr int64_t plain_row_bytes(WeightType type, int64_t inner) {
  return inner * (type == WeightType::kBfloat16 ? 2 : type == WeightType::kFloat32 ? 4 : 1);
}

// The outputs of a chunk, the smallest piece of work: about 32 KB of weights, or 128 KB for AMX tiles, and less if that
// would leave threads idle. A thread takes several chunks at once, up to kMostChunk outputs, because memory is read
// fastest in long stretches.
inline int64_t chunk_outs(const Products& products, int64_t outs, int64_t row_bytes) {
  const bool tiled = products.multiply_tiled != nullptr;
  const int64_t least = products.outs_multiple;
  const int64_t by_size = (tiled ? 131072 : 32768) / std::max<int64_t>(row_bytes, 1);
  const int64_t by_threads = outs / (4 * thread_count());
  return std::clamp<int64_t>(std::min(by_size, by_threads) / least * least, least, kMostChunk / 2);
}

// Divides `run` at the multiples of `size` and calls body(part, following) for each part.
template <class Function>
void split(Run run, int64_t size, int64_t following, const Function& body) {
  for (Run part{run.begin, 0}; part.begin < run.end; part.begin = part.end) {
    part.end = std::min(run.end, (part.begin / size + 1) * size);
    body(part, part.end < run.end ? part.end : following);
  }
}

// Calls body(i) for each i in [0, count), on several threads if there are more than `grain`.
template <class Function>
void for_each(int64_t count, int64_t grain, const Function& body) {
  parallel((count + grain - 1) / grain, [&](int64_t item, int64_t) {
    for (int64_t i = item * grain; i < std::min(count, (item + 1) * grain); ++i) body(i);
  });
}

}  // namespace lynx
