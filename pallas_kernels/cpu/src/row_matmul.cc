#include "row_matmul.h"

#include "rms_norm.h"

namespace lynx {
namespace {

// Consecutive outputs of one product.
struct Chunk {
  const RowMatmul::Product* product;
  int64_t first, outs;
};

struct Chunks {
  std::vector<Chunk> all;
  int64_t most;  // how many a thread takes at once

  // Consecutive chunks of one product, joined to one chunk.
  Chunk joined(Run part) const {
    Chunk chunk = all[part.begin];
    for (int64_t i = part.begin + 1; i < part.end; ++i) chunk.outs += all[i].outs;
    return chunk;
  }

  // Divides `run` into parts of one product each and calls body(part, following) for each part.
  template <class Function>
  void split(Run run, int64_t following, const Function& body) const {
    for (Run part{run.begin, 0}; part.begin < run.end; part.begin = part.end) {
      part.end = part.begin + 1;
      while (part.end < run.end && all[part.end].product == all[part.begin].product) ++part.end;
      body(part, part.end < run.end ? part.end : following);
    }
  }
};

Chunks chunks_of(const RowMatmul& op, const Products& products) {
  int64_t total = 0;
  for (const auto& product : op.products) total += product.outs;
  const int64_t size = chunk_outs(products, total, op.products[0].weight.row_bytes);
  Chunks chunks{{}, kMostChunk / size};
  for (const auto& product : op.products) {
    for (int64_t o = 0; o < product.outs; o += size) {
      chunks.all.push_back({&product, o, std::min(size, product.outs - o)});
    }
  }
  return chunks;
}

// Norms and packs rows [first, first + count). In an instruction set with AMX tiles they belong to one tile.
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
    products.pack_tiled(rows, op.inner, count, op.inner, first, op.used, packed);
  }
}

// Writes the outputs of one chunk for row `t`, with bias and residual added.
void write(const InstructionSet& set, const RowMatmul& op, const Chunk& chunk, int64_t t, const float* sums) {
  const RowMatmul::Product& product = *chunk.product;
  const int64_t at = t * product.outs + chunk.first, bytes = op.x.bytes();
  const auto place = [](const void* values, int64_t byte) {
    return values == nullptr ? nullptr : static_cast<const char*>(values) + byte;
  };
  set.finish(sums, place(product.bias, chunk.first * bytes), place(op.residual, at * bytes), op.x.narrow, chunk.outs,
             static_cast<char*>(product.y.data) + at * product.y.bytes(), product.y.narrow);
}

void clear_unused(const RowMatmul& op) {
  for (const auto& product : op.products) {
    const int64_t row = product.outs * product.y.bytes();
    std::memset(static_cast<char*>(product.y.data) + op.used * row, 0, (op.rows - op.used) * row);
  }
}

}  // namespace

void row_matmul(const InstructionSet& set, const RowMatmul& op) {
  clear_unused(op);
  if (op.used == 0) return;
  const Products& products = set.products[static_cast<int>(op.products[0].weight.type)];
  const bool tiled = products.multiply_tiled != nullptr;
  const int64_t bytes = tiled ? products.tiled_row_bytes(op.inner) : products.packed_bytes(op.inner);
  static thread_local Scratch scratch;
  char* packed = scratch.get<char>((tiled ? tile_room(op.used) : op.used) * bytes);
  // One thread packs the rows of a tile, because they share cache lines. But a few rows are packed by all threads.
  const int64_t grain = tiled && op.used > kTileRows ? kTileRows : 4;
  parallel((op.used + grain - 1) / grain, [&](int64_t item, int64_t) {
    pack_rows(set, op, products, item * grain, std::min(grain, op.used - item * grain), bytes, packed);
  });
  std::vector<const void*> rows(op.used);
  for (int64_t t = 0; t < op.used; ++t) rows[t] = packed + t * bytes;
  const Chunks chunks = chunks_of(op, products);
  const auto weights = [&](const Chunk& chunk) { return chunk.product->weight.row(0, chunk.first); };
  parallel_runs(static_cast<int64_t>(chunks.all.size()), chunks.most, [&](Run run, int64_t following) {
    chunks.split(run, following, [&](Run part, int64_t then) {
      float sums[kRowBlock * kMostChunk];
      const Chunk chunk = chunks.joined(part);
      const void* next = then < 0 ? nullptr : weights(chunks.all[then]);
      for (int64_t t = 0; t < op.used; t += kRowBlock) {
        const int64_t count = std::min(kRowBlock, op.used - t);
        if (tiled) {
          products.multiply_tiled(weights(chunk), chunk.outs, packed + t * bytes, tile_width(op.used), count, op.inner,
                                  sums, chunk.outs, next);
        } else {
          products.multiply(weights(chunk), chunk.outs, chunk.product->weight.scales_from(0, chunk.first),
                            rows.data() + t, count, op.inner, sums, chunk.outs, next);
        }
        for (int64_t row = 0; row < count; ++row) write(set, op, chunk, t + row, sums + row * chunk.outs);
      }
    });
  });
}

}  // namespace lynx
