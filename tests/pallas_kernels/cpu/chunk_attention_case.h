// `chunk_attention` beside a slow statement of it.
#pragma once

#include <cmath>
#include <vector>

#include "attention.h"
#include "random_numbers.h"

namespace {

// Two sequences in a pool of blocks, and tiles that cover a row at most once: each is idle or has rows of its own.
struct ChunkCase {
  int64_t groups, rest, width, value_width, blocks = 7, table_blocks = 3, tiles = 3;
  Numbers query, key, value;
  bool latent;
  std::vector<int32_t> start, count, slot, position, tables;
  std::vector<float> sinks;

  ChunkCase(Random& random, WeightType type, bool latent)
      : groups(random.between(1, 2)),
        rest(random.between(1, 9)),
        width(random.between(1, 40)),
        value_width(random.between(1, latent ? width : 40)),
        query(random, type, 1, 16 * tiles * groups * rest, width),
        key(random, type, 1, blocks * groups * 32, width),
        value(random, type, 1, blocks * groups * 32, value_width),
        latent(latent),
        sinks(groups * rest) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      start.push_back(static_cast<int32_t>(16 * tile));
      count.push_back(static_cast<int32_t>(random.between(0, 16)));
      slot.push_back(static_cast<int32_t>(random.between(-1, 2)));
      position.push_back(static_cast<int32_t>(random.between(0, 32 * table_blocks)));
    }
    // -1 and `blocks` are no blocks.
    for (int64_t i = 0; i < 2 * table_blocks; ++i) tables.push_back(static_cast<int32_t>(random.between(-1, blocks)));
    for (float& sink : sinks) sink = random.normal();
  }

  int64_t block_of(int64_t tile, int64_t at) const {
    if (slot[tile] < 0 || slot[tile] > 1 || at >= 32 * table_blocks) return -1;
    const int64_t block = tables[slot[tile] * table_blocks + at / 32];
    return block < blocks ? block : -1;
  }
};

// The definition, for one query head of one row of a tile.
std::vector<double> attended(const ChunkCase& c, const ChunkAttention& op, int64_t tile, int64_t row, int64_t head) {
  std::vector<double> sum(c.value_width);
  const int64_t own = c.position[tile] + row - c.start[tile];
  double total = op.sinks == nullptr ? 0 : std::exp(static_cast<double>(op.sinks[head]));
  for (int64_t at = 0; at <= own && row < c.start[tile] + c.count[tile] && c.block_of(tile, own) >= 0; ++at) {
    const int64_t block = c.block_of(tile, at);
    if (block < 0 || (op.window > 0 && at <= own - op.window) || (op.chunk > 0 && at < own / op.chunk * op.chunk)) {
      continue;
    }
    const int64_t place = (block * c.groups + head / c.rest) * 32 + at % 32;
    double score = 0;
    for (int64_t i = 0; i < c.width; ++i) {
      score += static_cast<double>(c.query.values[(row * op.heads + head) * c.width + i]) *
               c.key.values[place * c.width + i];
    }
    total += std::exp(op.scale * score);
    const float* value = c.latent ? &c.key.values[place * c.width] : &c.value.values[place * c.value_width];
    for (int64_t i = 0; i < c.value_width; ++i) sum[i] += std::exp(op.scale * score) * value[i];
  }
  for (double& one : sum) one = total > 0 ? one / total : 0;
  return sum;
}

void check_chunk_attention(Random& random, const InstructionSet& set, WeightType type) {
  ChunkCase c(random, type, random.between(0, 1) == 0);
  const bool narrow = type == WeightType::kBfloat16;
  ChunkAttention op{};
  op.rows = 16 * c.tiles;
  op.heads = c.groups * c.rest;
  op.groups = c.groups;
  op.blocks = c.blocks;
  op.width = c.width;
  op.value_width = c.value_width;
  op.value_stride = c.latent ? c.width : c.value_width;
  op.query = {c.query.held.data(), narrow};
  op.key = {c.key.held.data(), narrow};
  op.value = {c.latent ? c.key.held.data() : c.value.held.data(), narrow};
  op.tiles = c.tiles;
  op.start = c.start.data();
  op.count = c.count.data();
  op.slot = c.slot.data();
  op.position = c.position.data();
  op.slots = 2;
  op.table_blocks = c.table_blocks;
  op.tables = c.tables.data();
  op.window = random.between(0, 2) == 0 ? random.between(1, 50) : 0;
  op.chunk = random.between(0, 2) == 0 ? random.between(1, 50) : 0;
  op.scale = 0.5f;
  op.sinks = random.between(0, 1) == 0 ? c.sinks.data() : nullptr;
  std::vector<float> mixed(op.rows * op.heads * op.value_width, NAN);
  op.mixed = {mixed.data(), false};
  chunk_attention(set, op);
  for (int64_t place = 0; place < op.rows * op.heads; ++place) {
    const int64_t row = place / op.heads;
    const std::vector<double> expected = attended(c, op, row / 16, row, place % op.heads);
    for (int64_t i = 0; i < op.value_width; ++i) {
      // In bfloat16 each share is rounded, by one part in 512 at most.
      const double error = std::fabs(mixed[place * op.value_width + i] - expected[i]);
      check(error < (narrow ? 1e-2 : 1e-4), "chunk_attention", set.name);
    }
  }
}

}  // namespace
