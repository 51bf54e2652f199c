#pragma once

#include "rows.h"

namespace lynx {

// y[t, i] = x[t, i] * scale[i] / sqrt(mean of x[t]'s squares + eps), computed in float32.
struct RmsNorm {
  int64_t rows, width;
  Rows x, y;          // [rows, width]
  const void* scale;  // [width] in x's dtype
  float eps;
};

void rms_norm(const InstructionSet& set, const RmsNorm& op);

// One row of float32, in place.
void norm_row(const InstructionSet& set, const Rows& scale, int64_t width, float eps, float* row);

}  // namespace lynx
