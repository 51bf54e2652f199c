#pragma once

#include "rows.h"

namespace lynx {

// y[t] = sum over k, in order, of weights[t, k] * down[e] @ activation(gate[e] @ x[t], up[e] @ x[t]) with e = ids[t,
// k]. Rows that are not valid give zeros. The weights of an expert that no valid row chose are not read.
struct ExpertFfn {
  int64_t rows, width, experts, expert_width, top_k;
  Rows x, y;                 // [rows, width]
  const int32_t* ids;        // [rows, top_k]
  const float* weights;      // [rows, top_k]
  const bool* valid;         // [rows]
  Weight gate_up, down;      // [experts, 2 * expert_width, width], [experts, width, expert_width]
  const void* gate_up_bias;  // [experts, 2 * expert_width] in x's dtype, or null
  const void* down_bias;     // [experts, width] in x's dtype, or null
  Activation activation;
};

void expert_ffn(const InstructionSet& set, const ExpertFfn& op);

}  // namespace lynx
