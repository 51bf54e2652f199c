#include <cmath>

#include "attention.h"

namespace lynx {
namespace {

// One row of heads, which is read, normed, clipped and rotated as models do it: the norm's result is rounded to the
// row's dtype.
class HeadsRow {
 public:
  HeadsRow(const InstructionSet& set, const AppendHeads& op, const Rows& from, int64_t row, int64_t heads,
           float* values)
      : set_(set), op_(op), narrow_(from.narrow), size_(heads * op.head_dim), values_(values) {
    from.read(set, row * size_, size_, values_);
  }

  void norm(const void* scale) {
    if (scale != nullptr && op_.norm_projection) norm_each(size_, scale);
    if (op_.clip > 0) {
      // std::clamp leaves NaN as it is.
      for (int64_t i = 0; i < size_; ++i) values_[i] = std::clamp(values_[i], -op_.clip, op_.clip);
    }
    if (scale != nullptr && !op_.norm_projection) norm_each(op_.head_dim, scale);
  }

  void rotate(const float* cosines, const float* sines) { set_.rotate(cosines, sines, op_.head_dim, size_, values_); }

 private:
  void norm_each(int64_t width, const void* scale) {
    static thread_local Scratch scratch;
    float* scales = scratch.get<float>(width);
    Rows{const_cast<void*>(scale), narrow_}.read(set_, 0, width, scales);
    for (float* part = values_; part < values_ + size_; part += width) {
      const float mean = set_.dot(part, part, width) / static_cast<float>(width);
      const float factor = 1.0f / std::sqrt(mean + op_.norm_eps);
      set_.scale_each(factor, scales, width, part);
    }
    if (!narrow_) return;
    static thread_local Scratch rounded;
    uint16_t* bits = rounded.get<uint16_t>(size_);
    set_.narrow(values_, size_, bits);
    set_.widen(bits, size_, values_);
  }

  const InstructionSet& set_;
  const AppendHeads& op_;
  const bool narrow_;
  const int64_t size_;
  float* values_;
};

// Prefetches memory that will be written. Stores that miss the caches wait for one another.
void prefetch(const Rows& cache, int64_t at, int64_t count) {
  char* lines = static_cast<char*>(cache.data) + at * cache.bytes();
  for (int64_t byte = 0; byte < count * cache.bytes(); byte += 64) __builtin_prefetch(lines + byte, 1);
}

void append_token(const InstructionSet& set, const AppendHeads& op, int64_t token) {
  const int64_t row = token / op.length, place = token % op.length;
  const int64_t half = op.head_dim / 2, position = op.positions == nullptr ? place : op.positions[token];
  const Place to = place_of(op.blocks, row, position, op.capacity);
  const auto at = [&](int64_t g) { return ((to.row * op.groups + g) * op.capacity + to.position) * op.head_dim; };
  for (int64_t g = 0; to.inside && g < op.groups; ++g) {
    prefetch(op.cache_key, at(g), op.head_dim);
    prefetch(op.cache_value, at(g), op.head_dim);
  }
  static thread_local Scratch scratch;
  float* values = scratch.get<float>(std::max(op.heads, op.groups) * op.head_dim);
  const float *cosines = op.cosines + token * half, *sines = op.sines + token * half;
  HeadsRow query(set, op, op.query, token, op.heads, values);
  query.norm(op.query_norm);
  query.rotate(cosines, sines);
  for (int64_t head = 0; head < op.heads; ++head) {
    const int64_t into = ((row * op.heads + head) * op.length + place) * op.head_dim;
    op.new_query.write(set, into, op.head_dim, values + head * op.head_dim);
  }
  if (!to.inside) return;
  const auto keep = [&](const Rows& cache) {
    for (int64_t g = 0; g < op.groups; ++g) cache.write(set, at(g), op.head_dim, values + g * op.head_dim);
  };
  HeadsRow key(set, op, op.key, token, op.groups, values);
  key.norm(op.key_norm);
  key.rotate(cosines, sines);
  keep(op.cache_key);
  HeadsRow(set, op, op.value, token, op.groups, values).norm(nullptr);
  keep(op.cache_value);
}

}  // namespace

void append_heads(const InstructionSet& set, const AppendHeads& op) {
  for_each(op.batch * op.length, 2, [&](int64_t token) { append_token(set, op, token); });
}

}  // namespace lynx
