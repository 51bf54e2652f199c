#pragma once

#include "products.h"

namespace lynx {

// The lowest place of each row's largest logit, any where the row holds NaN; and whether all of them are finite.
struct GreedyToken {
  int64_t rows, vocabulary;
  const float* logits;  // [rows, vocabulary]
  int32_t* ids;         // [rows]
  bool* finite;         // [rows]
};

void greedy_token(const InstructionSet& set, const GreedyToken& op);

}  // namespace lynx
