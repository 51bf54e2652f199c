#pragma once

#include "keep_sets.h"

namespace lynx {

// Chooses every valid row's best experts among those that the batch keeps, and their weights.
struct SelectExperts {
  int64_t rows, experts, top_k;
  int64_t run;          // experts that a row runs, at most top_k; they carry the weight of top_k
  const float* logits;  // [rows, experts]
  const bool* valid;    // [rows]
  Router router;
  KeepRule rule;
  Terms terms;      // without `free`, which follows from `own`
  const bool* own;  // [rows], those that run their own experts whatever the others choose; or null
  int32_t* ids;     // [rows, run]
  float* weights;   // [rows, run]
  bool* active;     // [experts]
};

void select_experts(const InstructionSet& set, const SelectExperts& op);

}  // namespace lynx
