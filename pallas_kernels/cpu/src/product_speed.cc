#include "product_speed.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "pages.h"
#include "rows.h"

namespace lynx {

double product_speed(const InstructionSet& set, WeightType type, int64_t rows, int64_t inner, int64_t bytes,
                     int64_t read) {
  const Products& products = set.products[static_cast<int>(type)];
  const int64_t groups = (inner + 31) / 32;
  const int64_t row_bytes = type == WeightType::kInt4 ? groups * 16 : plain_row_bytes(type, inner);
  const int64_t piece = chunk_outs(products, read / row_bytes, row_bytes);
  // A thread takes as many outputs at once as in the operations, or all that `bytes` hold.
  const int64_t pieces = std::clamp<int64_t>(bytes / (piece * row_bytes), 1, kMostChunk / piece), outs = pieces * piece;
  const int64_t chunks = std::max<int64_t>(1, bytes / (outs * row_bytes)), items = read / (outs * row_bytes);
  const LentPages weights(chunks * outs * row_bytes);
  if (weights.data() == nullptr) return 0;
  // One scale for each output, or for every 32 inputs of it.
  const std::vector<float> scales(outs * groups, 1.0f), row(inner, 1.0f);
  Scratch scratch;
  const bool tiled = products.multiply_tiled != nullptr;
  const int64_t packed_bytes = tiled ? products.tiled_row_bytes(inner) : products.packed_bytes(inner);
  char* packed = scratch.get<char>((tiled ? tile_room(rows) : rows) * packed_bytes);
  std::vector<const void*> places(rows);
  for (int64_t t = 0; t < rows; ++t) {
    places[t] = packed + t * packed_bytes;
    if (tiled) products.pack_tiled(row.data(), inner, 1, inner, t, rows, packed);
    else products.pack(row.data(), inner, packed + t * packed_bytes);
  }
  const auto chunk = [&](int64_t item) { return weights.data() + item % chunks * outs * row_bytes; };
  const auto start = std::chrono::steady_clock::now();
  parallel(items, [&](int64_t item, int64_t following) {
    float sums[kRowBlock * kMostChunk];
    const void* next = following < 0 ? nullptr : chunk(following);
    for (int64_t t = 0; t < rows; t += kRowBlock) {
      const int64_t count = std::min(kRowBlock, rows - t);
      if (tiled) {
        products.multiply_tiled(chunk(item), outs, packed + t * packed_bytes, tile_width(rows), count, inner, sums,
                                outs, next);
      } else {
        products.multiply(chunk(item), outs, {scales.data()}, places.data() + t, count, inner, sums, outs, next);
      }
    }
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return static_cast<double>(items * outs * row_bytes) / seconds.count();
}

}  // namespace lynx
