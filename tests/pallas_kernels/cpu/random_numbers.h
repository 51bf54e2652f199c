// What the cases of the driver draw their arrays with, and how they fail.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "products.h"

namespace {

using namespace lynx;

struct Random {
  std::mt19937 engine;
  float normal() { return std::normal_distribution<float>()(engine); }
  int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }
  // Mostly the rows of a decode step, sometimes more rows than one block takes.
  int64_t rows() { return between(0, 5) > 0 ? between(1, 20) : between(21, 120); }
};

// A weight of one type in a buffer of exactly its size, and its values in float32.
struct Numbers {
  std::vector<char> held;
  std::vector<float> values, scales;
  WeightType type;

  Numbers(Random& random, WeightType type, int64_t outs, int64_t inner)
      : held(outs * inner * weight_bytes(type)), values(outs * inner), scales(outs), type(type) {
    for (int64_t o = 0; o < outs; ++o) {
      scales[o] = 0.01f * static_cast<float>(1 + o % 3);
      for (int64_t i = 0; i < inner; ++i) {
        const int64_t at = o * inner + i;
        const float value = random.normal() * 0.3f;
        if (type == WeightType::kFloat32) {
          values[at] = value;
          std::memcpy(held.data() + 4 * at, &value, 4);
        } else if (type == WeightType::kBfloat16) {
          uint16_t bits;
          instruction_set(0)->narrow(&value, 1, &bits);
          instruction_set(0)->widen(&bits, 1, &values[at]);
          std::memcpy(held.data() + 2 * at, &bits, 2);
        } else {
          const int8_t whole = static_cast<int8_t>(random.between(-127, 127));
          values[at] = whole * scales[o];
          std::memcpy(held.data() + at, &whole, 1);
        }
      }
    }
  }

  Weight weight() const { return {held.data(), type, type == WeightType::kInt8 ? scales.data() : nullptr}; }
};

void check(bool close, const char* what, const char* set) {
  if (close) return;
  std::fprintf(stderr, "%s is wrong with %s\n", what, set);
  std::exit(1);
}

}  // namespace
