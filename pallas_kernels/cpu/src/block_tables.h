#pragma once

#include <cstdint>

namespace lynx {

// Positions of a block.
constexpr int64_t kBlock = 32;

// Where the positions of rows lie in a pool of blocks, or none of it where the cache is dense: see
// pallas_kernels/block_tables.py, which has the rules.
struct BlockTables {
  const int32_t* tables;  // [slots, entries], or null for a dense cache
  const int32_t* slot;    // of each row
  int64_t slots, entries, pool;

  bool paged() const { return tables != nullptr; }
  // The block that holds a row's position, or -1.
  int64_t block(int64_t row, int64_t position) const {
    const int64_t own = slot[row];
    if (own < 0 || own >= slots || position < 0 || position >= entries * kBlock) return -1;
    const int64_t block = tables[own * entries + position / kBlock];
    return block >= 0 && block < pool ? block : -1;
  }
};

// Where a row writes: a position of a row of a dense cache, or of a block of a pool.
struct Place {
  bool inside;
  int64_t row, position;
};

// The place of a row's position in a cache of `capacity` positions a row or, in a pool, a block.
inline Place place_of(const BlockTables& blocks, int64_t row, int64_t position, int64_t capacity) {
  if (!blocks.paged()) return {position >= 0 && position < capacity, row, position};
  const int64_t block = blocks.block(row, position);
  return {block >= 0, block, position % kBlock};
}

}  // namespace lynx
