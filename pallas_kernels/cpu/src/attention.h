#pragma once

#include "rows.h"

namespace lynx {

// The work between projections and attention: norms, clips and rotates queries and keys, and writes keys and values
// into the cache. The caller owns the cache and permits the change. A row has `length` tokens, one in a decode step.
struct AppendHeads {
  int64_t batch, length, heads, groups, capacity, head_dim;
  Rows query, key, value;        // [batch, length, heads * head_dim], [batch, length, groups * head_dim] twice
  Rows cache_key, cache_value;   // [batch, groups, capacity, head_dim]
  const int32_t* positions;      // [batch, length], not written if outside the cache; null for 0, 1, 2, ... in each row
  const float *cosines, *sines;  // [batch, length, head_dim / 2]
  const void *query_norm, *key_norm;  // scale [head_dim], or [heads * head_dim] over the whole projection, or null
  bool norm_projection;               // which of the two: with one head their lengths are equal
  float norm_eps;
  float clip;      // 0 for none
  Rows new_query;  // [batch, heads, length, head_dim]
};

// mixed = softmax(query @ key.T * scale) @ value, over the positions of a row up to its own.
struct DecodeAttention {
  int64_t batch, heads, groups, capacity, head_dim;
  Rows query, key, value;    // [batch, heads, head_dim], [batch, groups, capacity, head_dim] twice
  const int32_t* positions;  // [batch]
  int64_t window;            // positions that a query sees, with its own; 0 for all
  int64_t chunk;             // size of blocks: a query sees only positions of its own block; 0 for no blocks
  float scale;
  const float* sinks;  // [heads], or null
  Rows mixed;          // [batch, heads, head_dim]
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
void decode_attention(const InstructionSet& set, const DecodeAttention& op);
void chunk_attention(const InstructionSet& set, const ChunkAttention& op);

}  // namespace lynx
