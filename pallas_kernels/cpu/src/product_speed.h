#pragma once

#include <cstdint>

#include "products.h"

namespace lynx {

// Bytes of weights a second that products of `rows` rows take: `bytes` of weights of `inner` inputs are gone through,
// all threads together, until `read` bytes were. Few bytes come from caches, many from memory. 0 where there is none to
// be had.
double product_speed(const InstructionSet& set, WeightType type, int64_t rows, int64_t inner, int64_t bytes,
                     int64_t read);

}  // namespace lynx
