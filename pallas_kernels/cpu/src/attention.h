#pragma once

#include "block_tables.h"
#include "rows.h"

namespace lynx {

// The work between projections and attention: norms, clips and rotates queries and keys, and writes keys and values
// into the cache. The caller owns the cache and permits the change. A row has `length` tokens, one in a decode step.
struct AppendHeads {
  int64_t batch, length, heads, groups, capacity, head_dim;
  Rows query, key, value;       // [batch, length, heads * head_dim], [batch, length, groups * head_dim] twice
  Rows cache_key, cache_value;  // [batch, groups, capacity, head_dim], or a pool [blocks, groups, kBlock, head_dim]
  BlockTables blocks;
  const int32_t* positions;      // [batch, length], not written if outside the cache; null for 0, 1, 2, ... in each row
  const float *cosines, *sines;  // [batch, length, head_dim / 2]
  const void *query_norm, *key_norm;  // scale [head_dim], or [heads * head_dim] over the whole projection, or null
  bool norm_projection;               // which of the two: with one head their lengths are equal
  float norm_eps;
  float clip;      // 0 for none
  Rows new_query;  // [batch, heads, length, head_dim]
};

// Copies what multi-head latent attention caches of a step into the cache. The caller permits the change.
struct AppendLatents {
  int64_t batch, capacity, row_bytes;
  const void* latent;  // [batch], row_bytes each
  void* cache;         // [batch, capacity], or a pool [blocks, kBlock]
  BlockTables blocks;
  const int32_t* positions;  // [batch], not written if outside the cache
};

// mixed = softmax(query @ key.T * scale) @ value, over the positions of a row up to its own. Latents are keys and
// values at once, in a group of all heads: `value` is `key`, and the first `value_width` numbers of a key are a value.
struct DecodeAttention {
  int64_t batch, heads, groups, capacity, width, value_width;
  Rows query, key, value;  // [batch, heads, width], [batch, groups, capacity, width] twice, or pools
                           // [blocks, groups, kBlock, width]
  BlockTables blocks;
  const int32_t* positions;  // [batch]
  int64_t window;            // positions that a query sees, with its own; 0 for all
  int64_t chunk;             // size of local blocks: a query sees only positions of its own; 0 for no such bound
  float scale;
  const float* sinks;  // [heads], or null
  Rows mixed;          // [batch, heads, value_width], zeros for a row that sees nothing
};

// The same for tiles of queries, which are consecutive positions of one sequence, over blocks of 32 positions in a
// pool. A sequence's table names its blocks, in the order of positions; a number outside [0, blocks) is no block. Rows
// of no tile, and rows whose position has no block, are zeros.
struct ChunkAttention {
  int64_t rows, heads, groups, blocks, width, value_width;
  int64_t value_stride;     // numbers from one position's values to the next one's
  Rows query, key;          // [rows, heads, width], [blocks, groups, 32, width]
  Rows value;               // [blocks, groups, 32, value_stride]: the keys again, where they begin with the values
  int64_t tiles;            // up to 16 rows each, of one sequence
  const int32_t* start;     // [tiles], the first row
  const int32_t* count;     // [tiles], rows; 0 for an idle tile
  const int32_t* slot;      // [tiles], the sequence's table
  const int32_t* position;  // [tiles], that of the first row
  int64_t slots, table_blocks;
  const int32_t* tables;  // [slots, table_blocks]
  int64_t window, chunk;  // as above
  float scale;
  const float* sinks;  // [heads], or null
  Rows mixed;          // [rows, heads, value_width]
};

void append_heads(const InstructionSet& set, const AppendHeads& op);
void append_latents(const AppendLatents& op);
void decode_attention(const InstructionSet& set, const DecodeAttention& op);
void chunk_attention(const InstructionSet& set, const ChunkAttention& op);

}  // namespace lynx
