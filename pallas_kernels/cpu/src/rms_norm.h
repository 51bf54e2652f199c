#pragma once

#include "rows.h"

namespace lynx {

// y[t, i] = x[t, i] * scale[i] / sqrt(mean over j of x[t, j]^2 + eps), computed in float32.
struct RmsNorm {
  int64_t rows, width;
  Rows x, y;          // [rows, width]
  const void* scale;  // [width] in x's dtype
  float eps;
};

void rms_norm(const InstructionSet& set, const RmsNorm& op);

// Norms one row of float32 in place.
void norm_row(const InstructionSet& set, const Rows& scale, int64_t width, float eps, float* row);

}  // namespace lynx
