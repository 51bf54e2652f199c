#include "rms_norm.h"

#include <cmath>

namespace lynx {

void norm_row(const InstructionSet& set, const Rows& scale, int64_t width, float eps, float* row) {
  static thread_local Scratch scratch;
  float* factors = scratch.get<float>(width);
  scale.read(set, 0, width, factors);
  const float factor = 1.0f / std::sqrt(set.dot(row, row, width) / static_cast<float>(width) + eps);
  set.scale_each(factor, factors, width, row);
}

void rms_norm(const InstructionSet& set, const RmsNorm& op) {
  for_each(op.rows, 4, [&](int64_t t) {
    static thread_local Scratch scratch;
    float* row = scratch.get<float>(op.width);
    op.x.read(set, t * op.width, op.width, row);
    norm_row(set, {const_cast<void*>(op.scale), op.x.narrow}, op.width, op.eps, row);
    op.y.write(set, t * op.width, op.width, row);
  });
}

}  // namespace lynx
