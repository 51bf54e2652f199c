#pragma once

#include <vector>

#include "rows.h"

namespace lynx {

// y = norm(x) @ weight.T + bias + residual, for each of several weights. A normed row is rounded only once, when it is
// packed.
struct RowMatmul {
  struct Product {
    Weight weight;  // [outs, inner]
    int64_t outs;
    const void* bias;  // [outs] in x's dtype, or null
    Rows y;            // [rows, outs]
  };

  int64_t rows, inner;
  int64_t used;            // rows that are computed, the first ones; the others become zero
  Rows x;                  // [rows, inner]
  const void* norm_scale;  // [inner] in x's dtype, or null
  float norm_eps;
  const void* residual;  // [rows, outs] in x's dtype, or null; with one product only
  std::vector<Product> products;
};

void row_matmul(const InstructionSet& set, const RowMatmul& op);

}  // namespace lynx
