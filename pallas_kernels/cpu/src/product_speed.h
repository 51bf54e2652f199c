#pragma once

#include <cstdint>

#include "products.h"

namespace lynx {

// The speed of products of `rows` rows, in bytes of weights per second for all threads together. They pass over `bytes`
// bytes of weights, rows of `inner` inputs, until they have read `read` bytes. Few bytes come from caches, and many
// come from memory. 0 if the memory could not be allocated.
double product_speed(const InstructionSet& set, WeightType type, int64_t rows, int64_t inner, int64_t bytes,
                     int64_t read);

}  // namespace lynx
