#include <cmath>

#include "attention.h"

namespace lynx {
namespace {

// The queries that share one row's group of keys: keys are the rows of a weight, and queries the packed rows.
void attend(const InstructionSet& set, const DecodeAttention& op, int64_t row, int64_t group) {
  const int64_t width = op.head_dim, rest = op.heads / op.groups;
  const int64_t end = std::clamp<int64_t>(op.positions[row] + 1, 0, op.capacity);
  int64_t first = op.window > 0 ? std::clamp<int64_t>(op.positions[row] + 1 - op.window, 0, end) : 0;
  if (op.chunk > 0) first = std::clamp<int64_t>(op.positions[row] / op.chunk * op.chunk, first, end);
  const int64_t seen = end - first, first_head = row * op.heads + group * rest;
  const WeightType type = op.key.narrow ? WeightType::kBfloat16 : WeightType::kFloat32;
  const Products& products = set.products[static_cast<int>(type)];
  const int64_t bytes = products.packed_bytes(width);
  static thread_local Scratch scratch, packed_scratch, pointers;
  float* scores = scratch.get<float>(rest * seen + width);
  float* values = scores + rest * seen;
  char* packed = packed_scratch.get<char>(rest * bytes);
  const void** queries = pointers.get<const void*>(rest);
  for (int64_t r = 0; r < rest; ++r) {
    op.query.read(set, (first_head + r) * width, width, values);
    products.pack(values, width, packed + r * bytes);
    queries[r] = packed + r * bytes;
  }
  const int64_t at = ((row * op.groups + group) * op.capacity + first) * width;
  const int64_t size = weight_bytes(type);
  const char* keys = static_cast<const char*>(op.key.data) + at * size;
  products.multiply(keys, seen, nullptr, queries, rest, width, scores, seen, nullptr);
  for (int64_t r = 0; r < rest; ++r) {
    float* own = scores + r * seen;
    const float sink = op.sinks == nullptr ? -INFINITY : op.sinks[group * rest + r];
    float top = sink;
    for (int64_t c = 0; c < seen; ++c) {
      own[c] *= op.scale;
      top = std::fmax(top, own[c]);
    }
    float total = set.exponentials(own, seen, top);
    if (op.sinks != nullptr) total += std::exp(sink - top);
    std::memset(values, 0, 4 * width);
    set.add_rows(static_cast<const char*>(op.value.data) + at * size, op.value.narrow, seen, width, own, values);
    for (int64_t i = 0; i < width; ++i) values[i] /= total;
    op.mixed.write(set, (first_head + r) * width, width, values);
  }
}

}  // namespace

void decode_attention(const InstructionSet& set, const DecodeAttention& op) {
  for_each(op.batch * op.groups, 4, [&](int64_t item) { attend(set, op, item / op.groups, item % op.groups); });
}

}  // namespace lynx
