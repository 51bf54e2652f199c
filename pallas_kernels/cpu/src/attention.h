#pragma once

#include "rows.h"

namespace lynx {

// What comes between projections and attention: queries and keys normed, clipped and turned by their positions, keys
// and values written into the cache, which is the caller's to change. A row has `length` tokens: 1 in a step.
struct AppendHeads {
  int64_t batch, length, heads, groups, capacity, head_dim;
  Rows query, key, value;       // [batch, length, heads * head_dim], [batch, length, groups * head_dim] twice
  Rows cache_key, cache_value;  // [batch, groups, capacity, head_dim]
  const int32_t* positions;  // [batch, length]; one outside the cache is not written; null for each row's 0, 1, 2, ...
  const float *cosines, *sines;       // [batch, length, head_dim / 2]: what pairs are multiplied by, as complex numbers
  const void *query_norm, *key_norm;  // scale [head_dim], or [heads * head_dim] over the whole projection, or null
  bool norm_projection;               // which of the two: with one head their lengths are equal
  float norm_eps;
  float clip;      // 0 for none
  Rows new_query;  // [batch, heads, length, head_dim]
};

// Softmax(query @ key.T * scale) @ value over the positions of a row up to its own.
struct DecodeAttention {
  int64_t batch, heads, groups, capacity, head_dim;
  Rows query, key, value;    // [batch, heads, head_dim], [batch, groups, capacity, head_dim] twice
  const int32_t* positions;  // [batch]
  int64_t window;            // positions that a query sees, its own included; 0 for all
  int64_t chunk;             // a query sees none before the multiple of it that its own follows; 0 for no such bound
  float scale;
  const float* sinks;  // [heads], or null
  Rows mixed;          // [batch, heads, head_dim]
};

void append_heads(const InstructionSet& set, const AppendHeads& op);
void decode_attention(const InstructionSet& set, const DecodeAttention& op);

}  // namespace lynx
