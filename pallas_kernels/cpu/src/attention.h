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

void append_heads(const InstructionSet& set, const AppendHeads& op);
void decode_attention(const InstructionSet& set, const DecodeAttention& op);

}  // namespace lynx
