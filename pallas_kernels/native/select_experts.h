#pragma once

#include "products.h"

namespace lynx {

// Every row runs its own best experts by a softmax or sigmoid router; no policy restricts the batch.
struct SelectExperts {
  int64_t rows, experts, top_k;
  int64_t run;          // experts that a row runs, at most `top_k`: they carry the weight of all `top_k`
  const float* logits;  // [rows, experts]
  const bool* valid;    // [rows]
  bool sigmoid, renormalize, unit_weights;
  float scale;
  int32_t* ids;    // [rows, run]
  float* weights;  // [rows, run]
  bool* active;    // [experts]
};

void select_experts(const InstructionSet& set, const SelectExperts& op);

}  // namespace lynx
