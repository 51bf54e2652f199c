// What the cases of the driver draw their arrays with, and how they fail.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "rows.h"

namespace {

using namespace lynx;

struct Random {
  std::mt19937 engine;
  float normal() { return std::normal_distribution<float>()(engine); }
  int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }
  // Mostly the rows of a decode step, sometimes more rows than one block takes.
  int64_t rows() { return between(0, 5) > 0 ? between(1, 20) : between(21, 120); }
};

// A stack of weights of one type in a buffer of exactly its size, and its values in float32.
struct Numbers {
  std::vector<char> held;
  std::vector<float> values, scales;
  std::vector<uint16_t> short_scales;
  WeightType type;
  int64_t outs, inner, stored, groups, blocks = 1;
  bool half = false;

  Numbers(Random& random, WeightType type, int64_t matrices, int64_t outs, int64_t inner)
      : values(matrices * outs * inner), type(type), outs(outs), inner(inner), stored(outs), groups(1) {
    if (type == WeightType::kInt4) {
      draw_groups(random, matrices);
      return;
    }
    held.resize(matrices * outs * plain_row_bytes(type, inner));
    scales.resize(matrices * outs);
    for (int64_t o = 0; o < matrices * outs; ++o) {
      scales[o] = 0.01f * static_cast<float>(1 + o % 3);
      for (int64_t i = 0; i < inner; ++i) draw(random, o * inner + i, scales[o]);
    }
  }

  void draw(Random& random, int64_t at, float scale) {
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
      values[at] = whole * scale;
      std::memcpy(held.data() + at, &whole, 1);
    }
  }

  // Numbers of four bits, interleaved; scales of float16 or of bfloat16, powers of two or one and a half times those.
  void draw_groups(Random& random, int64_t matrices) {
    blocks = random.between(0, 1) > 0 ? 1 : random.between(2, 4);
    half = random.between(0, 1) > 0;
    groups = (inner + 32 * blocks - 1) / (32 * blocks);
    stored = (outs + 15) / 16 * 16;
    const int64_t inputs = groups * blocks * 32;
    // 8 means 0, in both halves of a byte.
    held.assign(matrices * stored * inputs / 2, static_cast<char>(0x88));
    short_scales.assign(matrices * stored * groups, 0);
    for (int64_t m = 0; m < matrices; ++m) {
      for (int64_t o = 0; o < outs; ++o) {
        const int64_t lanes = m * stored + o / 16 * 16;
        std::vector<float> scale_of(groups);
        for (int64_t g = 0; g < groups; ++g) {
          // Exponents from -3 to -8, with the upper bit of the fraction or without; sometimes a subnormal float16.
          const int64_t down = random.between(3, 8), more = random.between(0, 1);
          const bool tiny = half && random.between(0, 9) == 0;
          const int64_t fraction = half ? 10 : 7, bias = half ? 15 : 127;
          uint16_t& bits = short_scales[(lanes * groups) + g * 16 + o % 16];
          bits = static_cast<uint16_t>(tiny ? 1 + more : ((bias - down) << fraction) | (more << (fraction - 1)));
          scale_of[g] = std::ldexp(tiny ? static_cast<float>(1 + more) : more ? 1.5f : 1.0f, tiny ? -24 : -(int)down);
          if (random.between(0, 3) == 0) bits |= 0x8000, scale_of[g] = -scale_of[g];
        }
        for (int64_t i = 0; i < inner; ++i) {
          const int64_t whole = random.between(0, 15), line = i / 8, shift = i % 8 / 4 * 4;
          char& byte = held[lanes * inputs / 2 + line * 64 + o % 16 * 4 + i % 4];
          byte = static_cast<char>((byte & ~(15 << shift)) | (whole << shift));
          values[(m * outs + o) * inner + i] = static_cast<float>(whole - 8) * scale_of[i / (32 * blocks)];
        }
      }
    }
  }

  Weight weight() const {
    if (type == WeightType::kInt4) {
      return {held.data(), type, stored, groups * blocks * 16, {short_scales.data(), half, blocks}, groups * 2};
    }
    const bool scaled = type == WeightType::kInt8;
    return {held.data(), type, outs, plain_row_bytes(type, inner), {scaled ? scales.data() : nullptr}, 4};
  }
};

void check(bool close, const char* what, const char* set) {
  if (close) return;
  std::fprintf(stderr, "%s is wrong with %s\n", what, set);
  std::exit(1);
}

}  // namespace
