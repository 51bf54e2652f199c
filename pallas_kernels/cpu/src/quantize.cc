#include "quantize.h"

#include <atomic>

namespace lynx {
namespace {

constexpr int64_t kLanesOfBlock = 16, kLineInputs = 8, kLineBytes = 64;

// Where one output's numbers and scales go.
struct Place {
  bool interleaved;
  int64_t inputs, groups;
  uint8_t* values;
  uint16_t* scales;

  // The place of output `out` of matrix `matrix`, of `outs` outputs as stored.
  Place at(int64_t matrix, int64_t outs, int64_t out) const {
    const int64_t row = matrix * outs + out, lane = interleaved ? out % kLanesOfBlock : 0, first = row - lane;
    return {interleaved, inputs, groups, values + first * inputs / 2 + 4 * lane, scales + first * groups + lane};
  }

  void write(const uint8_t* numbers, const uint16_t* of_groups) const {
    for (int64_t g = 0; g < groups; ++g) scales[interleaved ? g * kLanesOfBlock : g] = of_groups[g];
    if (!interleaved) {
      for (int64_t i = 0; i < inputs; i += 2) values[i / 2] = static_cast<uint8_t>(numbers[i] | numbers[i + 1] << 4);
      return;
    }
    for (int64_t line = 0; line < inputs / kLineInputs; ++line, numbers += kLineInputs) {
      for (int64_t i = 0; i < 4; ++i) {
        values[line * kLineBytes + i] = static_cast<uint8_t>(numbers[i] | numbers[i + 4] << 4);
      }
    }
  }
};

int64_t stored_outs(int64_t outs, bool interleaved) {
  return interleaved ? (outs + kLanesOfBlock - 1) / kLanesOfBlock * kLanesOfBlock : outs;
}

// Runs body(matrix, out) for all stored outputs. A thread takes those that share cache lines.
template <class Body>
void for_outputs(int64_t matrices, int64_t stored, const Body& body) {
  for_each(matrices * stored, kLanesOfBlock, [&](int64_t row) { body(row / stored, row % stored); });
}

}  // namespace

bool quantize(const InstructionSet& set, const Quantize& op) {
  const int64_t groups = (op.inner + op.group - 1) / op.group, inputs = groups * op.group;
  const int64_t stored = stored_outs(op.outs, op.interleaved);
  const Place place{op.interleaved, inputs, groups, op.values, op.scales};
  std::atomic<bool> finite{true};
  for_outputs(op.matrices, stored, [&](int64_t matrix, int64_t out) {
    static thread_local Scratch wide, bytes, shorts;
    float* row = wide.get<float>(inputs);
    uint8_t* numbers = bytes.get<uint8_t>(inputs);
    uint16_t* scales = shorts.get<uint16_t>(groups);
    if (out >= op.outs) {
      // 8 means 0.
      std::memset(numbers, 8, inputs);
      std::memset(scales, 0, 2 * groups);
    } else {
      std::memset(row + op.inner, 0, 4 * (inputs - op.inner));
      op.weight.read(set, (matrix * op.outs + out) * op.inner, op.inner, row);
      if (!set.largest(row, op.inner).finite) finite = false;
      set.search_groups(row, groups, op.group, op.ends, op.count, numbers, scales);
    }
    place.at(matrix, stored, out).write(numbers, scales);
  });
  return finite;
}

void interleave(const Interleave& op) {
  const int64_t stored = stored_outs(op.outs, true);
  const Place place{true, op.inputs, op.groups, op.new_values, op.new_scales};
  for_outputs(op.matrices, stored, [&](int64_t matrix, int64_t out) {
    static thread_local Scratch bytes, shorts;
    uint8_t* numbers = bytes.get<uint8_t>(op.inputs);
    uint16_t* scales = shorts.get<uint16_t>(op.groups);
    std::memset(numbers, 8, op.inputs);
    std::memset(scales, 0, 2 * op.groups);
    if (out < op.outs) {
      const int64_t row = matrix * op.outs + out;
      for (int64_t i = 0; i < op.inputs; i += 2) {
        const uint8_t both = op.values[(row * op.inputs + i) / 2];
        numbers[i] = both & 15;
        numbers[i + 1] = both >> 4;
      }
      std::memcpy(scales, op.scales + row * op.groups, 2 * op.groups);
    }
    place.at(matrix, stored, out).write(numbers, scales);
  });
}

}  // namespace lynx
