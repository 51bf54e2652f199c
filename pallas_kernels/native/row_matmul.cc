#include "row_matmul.h"

#include "rms_norm.h"

namespace lynx {
namespace {

struct Chunk {
  const RowMatmul::Product* product;
  int64_t first, outs;
};

std::vector<Chunk> cut(const RowMatmul& op, const Products& products) {
  int64_t total = 0;
  for (const auto& product : op.products) total += product.outs;
  std::vector<Chunk> chunks;
  for (const auto& product : op.products) {
    const int64_t size = chunk_outs(products, total, op.inner * weight_bytes(product.weight.type));
    for (int64_t o = 0; o < product.outs; o += size) chunks.push_back({&product, o, std::min(size, product.outs - o)});
  }
  return chunks;
}

// Rows [first, first + count), in one tile where there are tiles.
void pack_rows(const InstructionSet& set, const RowMatmul& op, const Products& products, int64_t first, int64_t count,
               int64_t bytes, char* packed) {
  static thread_local Scratch scratch;
  float* rows = scratch.get<float>(count * op.inner);
  for (int64_t i = 0; i < count; ++i) {
    float* row = rows + i * op.inner;
    op.x.read(set, (first + i) * op.inner, op.inner, row);
    if (op.norm_scale != nullptr) {
      norm_row(set, {const_cast<void*>(op.norm_scale), op.x.narrow}, op.inner, op.norm_eps, row);
    }
    if (products.multiply_tiled == nullptr) products.pack(row, op.inner, packed + (first + i) * bytes);
  }
  if (products.multiply_tiled != nullptr) {
    products.pack_tiled(rows, op.inner, count, op.inner, first, op.rows, packed);
  }
}

void write(const InstructionSet& set, const RowMatmul& op, const Chunk& chunk, int64_t t, float* sums) {
  const RowMatmul::Product& product = *chunk.product;
  float added[kMostChunk];
  const int64_t at = t * product.outs + chunk.first;
  const auto add = [&](const void* values, int64_t from) {
    if (values == nullptr) return;
    Rows{const_cast<void*>(values), op.x.narrow}.read(set, from, chunk.outs, added);
    set.add_scaled(1.0f, added, chunk.outs, sums);
  };
  add(product.bias, chunk.first);
  add(op.residual, at);
  product.y.write(set, at, chunk.outs, sums);
}

}  // namespace

void row_matmul(const InstructionSet& set, const RowMatmul& op) {
  const Products& products = set.products[static_cast<int>(op.products[0].weight.type)];
  const bool tiled = products.multiply_tiled != nullptr;
  const int64_t bytes = tiled ? products.tiled_row_bytes(op.inner) : products.packed_bytes(op.inner);
  static thread_local Scratch scratch;
  char* packed = scratch.get<char>((tiled ? tile_room(op.rows) : op.rows) * bytes);
  // Rows of a tile share lines of memory; of a few rows, all threads pack some all the same.
  const int64_t grain = tiled && op.rows > kTileRows ? kTileRows : 4;
  parallel((op.rows + grain - 1) / grain, [&](int64_t item, int64_t) {
    pack_rows(set, op, products, item * grain, std::min(grain, op.rows - item * grain), bytes, packed);
  });
  std::vector<const void*> rows(op.rows);
  for (int64_t t = 0; t < op.rows; ++t) rows[t] = packed + t * bytes;
  const std::vector<Chunk> chunks = cut(op, products);
  const auto weights = [&](const Chunk& chunk) { return chunk.product->weight.row(chunk.first, op.inner); };
  parallel(static_cast<int64_t>(chunks.size()), [&](int64_t item, int64_t following) {
    float sums[kRowBlock * kMostChunk];
    const Chunk& chunk = chunks[item];
    const void* next = following < 0 ? nullptr : weights(chunks[following]);
    for (int64_t t = 0; t < op.rows; t += kRowBlock) {
      const int64_t count = std::min(kRowBlock, op.rows - t);
      if (tiled) {
        products.multiply_tiled(weights(chunk), chunk.outs, packed + t * bytes, tile_width(op.rows), count, op.inner, sums,
                                chunk.outs, next);
      } else {
        products.multiply(weights(chunk), chunk.outs, chunk.product->weight.scale(chunk.first), rows.data() + t, count,
                          op.inner, sums, chunk.outs, next);
      }
      for (int64_t row = 0; row < count; ++row) write(set, op, chunk, t + row, sums + row * chunk.outs);
    }
  });
}

}  // namespace lynx
