// Quantisation to four bits: numbers that are the nearest under their scales, and two layouts of the same numbers.
#pragma once

#include "quantize.h"
#include "random_numbers.h"

namespace {

void check_quantize(Random& random, const InstructionSet& set) {
  const int64_t matrices = random.between(1, 3), outs = random.between(1, 40), inner = random.between(1, 150);
  const int64_t group = 32 * random.between(1, 3), groups = (inner + group - 1) / group, inputs = groups * group;
  const int64_t stored = (outs + 15) / 16 * 16;
  std::vector<float> weight(matrices * outs * inner);
  for (float& one : weight) one = random.normal();
  const bool nobody = random.between(0, 3) == 0;
  if (nobody) std::fill(weight.begin(), weight.end(), 0.0f);
  const float ends[4] = {8, 7.5f, 8.5f, -7};
  std::vector<uint8_t> rows(matrices * outs * inputs / 2), lanes(matrices * stored * inputs / 2), moved(lanes.size());
  std::vector<uint16_t> scales(matrices * outs * groups), lane_scales(matrices * stored * groups),
      moved_scales(lane_scales.size());
  Quantize op{matrices, outs, inner, {weight.data(), false}, group, ends, 4, false, rows.data(), scales.data()};
  check(quantize(set, op), "finite weights", set.name);
  for (int64_t at = 0; at < matrices * outs; ++at) {
    for (int64_t i = 0; i < inputs; ++i) {
      float scale;
      set.widen(&scales[at * groups + i / group], 1, &scale);
      const int whole = (rows[(at * inputs + i) / 2] >> i % 2 * 4 & 15) - 8;
      const float value = i < inner ? weight[at * inner + i] : 0, low = -8 * scale, high = 7 * scale;
      const float held = std::fmin(std::fmax(value, std::fmin(low, high)), std::fmax(low, high));
      check(std::fabs(whole * scale - held) <= 0.50001f * std::fabs(scale), "the nearest number", set.name);
    }
  }
  op.interleaved = true;
  op.values = lanes.data();
  op.scales = lane_scales.data();
  check(quantize(set, op), "finite weights", set.name);
  interleave({matrices, outs, inputs, groups, rows.data(), scales.data(), moved.data(), moved_scales.data()});
  check(moved == lanes && moved_scales == lane_scales, "interleaved numbers", set.name);
  weight[random.between(0, static_cast<int64_t>(weight.size()) - 1)] = NAN;
  check(!quantize(set, op), "a weight that is NaN", set.name);
}

}  // namespace
