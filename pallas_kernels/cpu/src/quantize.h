#pragma once

#include <cstdint>

#include "rows.h"

namespace lynx {

// Quantises matrices [outs, inner] to four bits with bfloat16 scales, in a layout of group_products.h or output by
// output: two neighbouring inputs in a byte, the first in its low half, and scales [out, group].
struct Quantize {
  int64_t matrices, outs, inner;
  Rows weight;        // [matrices, outs, inner]
  int64_t group;      // inputs that share a scale, at most 1024
  const float* ends;  // [count]: where the search sends a group's largest magnitude
  int64_t count;      // a multiple of four
  bool interleaved;
  uint8_t* values;
  uint16_t* scales;
};

// Returns false if a weight is NaN or infinite.
bool quantize(const InstructionSet& set, const Quantize& op);

// Carries numbers of four bits and their scales of 16 bits from output by output to the interleaved layout.
struct Interleave {
  int64_t matrices, outs, inputs, groups;  // inputs are filled up to whole groups
  const uint8_t* values;
  const uint16_t* scales;
  uint8_t* new_values;
  uint16_t* new_scales;
};

void interleave(const Interleave& op);

}  // namespace lynx
