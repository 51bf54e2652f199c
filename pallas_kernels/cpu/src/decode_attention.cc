#include <cmath>

#include "attention.h"

namespace lynx {
namespace {

// An item is one key/value head of one row, with the queries that share it. A thread takes this many at once.
constexpr int64_t kGrain = 4;
// Positions that are computed between two prefetches of the next item's keys or values. To prefetch all of them at once
// would fill the processor's buffers for cache misses, and the products would wait.
constexpr int64_t kStride = 8;
// Bytes of an item's keys, and of its values, that are prefetched at most. The rest is read in the order of addresses,
// which the hardware prefetches.
constexpr int64_t kMostAhead = 16384;

// The positions of the cache that an item's queries see.
struct Seen {
  int64_t count;
  const char *keys, *values;
};

Seen seen_by(const DecodeAttention& op, int64_t item) {
  const int64_t position = op.positions[item / op.groups];
  const int64_t end = std::clamp<int64_t>(position + 1, 0, op.capacity);
  int64_t first = op.window > 0 ? std::clamp<int64_t>(position + 1 - op.window, 0, end) : 0;
  if (op.chunk > 0) first = std::clamp<int64_t>(position / op.chunk * op.chunk, first, end);
  const int64_t at = (item * op.capacity + first) * op.head_dim * op.key.bytes();
  return {end - first, static_cast<const char*>(op.key.data) + at, static_cast<const char*>(op.value.data) + at};
}

// Prefetches rows [from, to) of an item's keys or values, as far as its queries see them.
void prefetch(const char* rows, const Seen& seen, int64_t row_bytes, int64_t from, int64_t to) {
  const int64_t end = std::min({to * row_bytes, seen.count * row_bytes, kMostAhead});
  for (int64_t at = from * row_bytes; at < end; at += 64) __builtin_prefetch(rows + at);
}

// Attention of one item. The scores are a product in which the keys are the weight and the queries are the packed rows.
void attend(const InstructionSet& set, const DecodeAttention& op, int64_t item, const Seen& seen, const Seen& next) {
  const int64_t width = op.head_dim, rest = op.heads / op.groups, count = seen.count;
  const int64_t group = item % op.groups, first_head = item * rest;
  const WeightType type = op.key.narrow ? WeightType::kBfloat16 : WeightType::kFloat32;
  const Products& products = set.products[static_cast<int>(type)];
  const int64_t bytes = products.packed_bytes(width);
  static thread_local Scratch scratch, packed_scratch, pointers;
  float* scores = scratch.get<float>(rest * count + width);
  float* values = scores + rest * count;
  char* packed = packed_scratch.get<char>(rest * bytes);
  const void** queries = pointers.get<const void*>(rest);
  for (int64_t r = 0; r < rest; ++r) {
    op.query.read(set, (first_head + r) * width, width, values);
    products.pack(values, width, packed + r * bytes);
    queries[r] = packed + r * bytes;
  }
  const int64_t row_bytes = width * op.key.bytes();
  for (int64_t c = 0; c < count; c += kStride) {
    const int64_t some = std::min(kStride, count - c);
    prefetch(next.keys, next, row_bytes, c, c + kStride);
    products.multiply(seen.keys + c * row_bytes, some, nullptr, queries, rest, width, scores + c, count, nullptr);
  }
  prefetch(next.keys, next, row_bytes, (count + kStride - 1) / kStride * kStride, next.count);
  for (int64_t r = 0; r < rest; ++r) {
    float* own = scores + r * count;
    const float sink = op.sinks == nullptr ? -INFINITY : op.sinks[group * rest + r];
    const float top = std::fmax(sink, set.scale(op.scale, count, own));
    float total = set.exponentials(own, count, top);
    if (op.sinks != nullptr) total += std::exp(sink - top);
    std::memset(values, 0, 4 * width);
    for (int64_t c = 0; c < count; c += kStride) {
      if (r == 0) prefetch(next.values, next, row_bytes, c, c + kStride);
      set.add_rows(seen.values + c * row_bytes, op.value.narrow, std::min(kStride, count - c), width, own + c, values);
    }
    for (int64_t i = 0; i < width; ++i) values[i] /= total;
    op.mixed.write(set, (first_head + r) * width, width, values);
  }
  prefetch(next.values, next, row_bytes, (count + kStride - 1) / kStride * kStride, next.count);
}

}  // namespace

void decode_attention(const InstructionSet& set, const DecodeAttention& op) {
  const int64_t items = op.batch * op.groups, row_bytes = op.head_dim * op.key.bytes();
  parallel((items + kGrain - 1) / kGrain, [&](int64_t chunk, int64_t following) {
    // The keys that this thread prefetched last, while it computed the item before.
    static thread_local const char* prefetched = nullptr;
    Seen seen = seen_by(op, chunk * kGrain);
    if (seen.keys != prefetched) {
      prefetch(seen.keys, seen, row_bytes, 0, seen.count);
      prefetch(seen.values, seen, row_bytes, 0, seen.count);
    }
    for (int64_t item = chunk * kGrain, end = std::min(items, item + kGrain); item < end; ++item) {
      const int64_t then = item + 1 < end ? item + 1 : following * kGrain;
      const Seen next = then < 0 ? Seen{} : seen_by(op, then);
      attend(set, op, item, seen, next);
      seen = next;
    }
    prefetched = seen.keys;
  });
}

}  // namespace lynx
