// The scale of a group of weights in four bits: see pallas_kernels/weights/quantizing.py, which states the search.
#pragma once

#include "vectors.h"

namespace lynx {
namespace {

// The nearest whole numbers, ties to even, of numbers below 2^22 in magnitude.
inline Floats nearest(Floats x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: its neighbours are whole numbers
  Floats moved = x + magic;
  // Otherwise the compiler might cancel the two additions.
  asm volatile("" : "+m"(moved));
  return moved - magic;
}

inline Floats clipped(Floats x) {
  const Floats low = Floats{} - 8.0f, high = Floats{} + 7.0f, above = x > low ? x : low;
  return above < high ? above : high;
}

// The number of largest magnitude; 0 if all are below float32's normal range.
inline float largest_of(const float* x, int64_t count) {
  Floats most = {}, least = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    const Floats values = load<Floats>(x + i);
    most = values > most ? values : most;
    least = values < least ? values : least;
  }
  float high = 0, low = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    high = most[lane] > high ? most[lane] : high;
    low = least[lane] < low ? least[lane] : low;
  }
  const float largest = high >= -low ? high : low;
  return largest > 1.1754944e-38f || largest < -1.1754944e-38f ? largest : 0;
}

// The scale of `units`, numbers of magnitude 1 and less, which explains most of their squares. The `count` ends, a
// multiple of four, say where -1 goes.
inline float best_scale(const float* units, int64_t group, const float* ends, int64_t count) {
  float best = 0, scale = 1;
  for (int64_t from = 0; from < count; from += 4) {
    Floats products[4] = {}, squares[4] = {};
    for (int64_t i = 0; i < group; i += kLanes) {
      const Floats unit = load<Floats>(units + i);
      unrolled<4>([&](int e) LYNX_INLINE {
        const Floats q = clipped(nearest(unit * ends[from + e]));
        products[e] += unit * q;
        squares[e] += q * q;
      });
    }
    const FourSums product = sums_of(products[0], products[1], products[2], products[3]);
    const FourSums square = sums_of(squares[0], squares[1], squares[2], squares[3]);
    for (int e = 0; e < 4; ++e) {
      const float whole = square.of[e] > 1 ? square.of[e] : 1, explained = product.of[e] * product.of[e] / whole;
      if (explained <= best * (1 + 0x1p-20f)) continue;
      best = explained;
      scale = product.of[e] / whole;
    }
  }
  return scale;
}

// InstructionSet::search_groups
void search_groups(const float* x, int64_t groups, int64_t group, const float* ends, int64_t count, uint8_t* numbers,
                   uint16_t* scales) {
  for (int64_t g = 0; g < groups; ++g, x += group, numbers += group) {
    constexpr int64_t kMost = 1024;
    float units[kMost];
    const float largest = largest_of(x, group);
    float scale = 1;
    if (largest != 0 && group <= kMost) {
      for (int64_t i = 0; i < group; i += kLanes) store(units + i, load<Floats>(x + i) / -largest);
      scale = best_scale(units, group, ends, count) * -largest;
    }
    scales[g] = round_to_bfloat16(scale);
    const float rounded = as_float((uint32_t)scales[g] << 16);
    typedef uint8_t Narrow __attribute__((vector_size(kLanes)));
    for (int64_t i = 0; i < group; i += kLanes) {
      const Floats q = largest == 0 ? Floats{} : clipped(nearest(clipped(load<Floats>(x + i) / rounded)));
      store(numbers + i, __builtin_convertvector(__builtin_convertvector(q + 8.0f, Ints), Narrow));
    }
  }
}

}  // namespace
}  // namespace lynx
