#pragma once

#include "products.h"

namespace lynx {

// For each row, the lowest place of its largest logit, and whether all its logits are finite. If some are NaN, the
// place is any.
struct GreedyToken {
  int64_t rows, vocabulary;
  const float* logits;  // [rows, vocabulary]
  int32_t* ids;         // [rows]
  bool* finite;         // [rows]
};

void greedy_token(const InstructionSet& set, const GreedyToken& op);

}  // namespace lynx
