// Attention of several queries whose numbers lie side by side: a lane of every vector belongs to one query. Both
// products of attention then have one form, in which a number of the cache is spread over all lanes and multiplied by a
// vector of the queries' numbers, and maxima and sums over positions are those of whole vectors. No sum runs across the
// lanes of a vector.
#pragma once

#include "products.h"
#include "vector_loops.h"
#include "vectors.h"

namespace lynx {
namespace {

// How many sums a tile has: they and what is multiplied fit the registers, and there are enough of them that no sum has
// to wait for its last product.
constexpr int kLaneSums = kManyRegisters ? 16 : 8;
// A score of positions that a query does not see, and the top score of a query that has seen none.
constexpr float kUnseen = -3e38f;

// Numbers of the cache as float32, one for each step of a product.
struct LaneFloats {
  typedef Floats Part;
  static Part spread(const char* from) {
    // As an integer: to add a float to zeros takes an addition, because of negative zero.
    uint32_t bits;
    memcpy(&bits, from, 4);
    return (Floats)(Bits{} + bits);
  }
  static Floats add(Floats sum, Part spread, Part lanes) { return sum + spread * lanes; }
};

#if defined(__AVX512BF16__)
// Two numbers of the cache as bfloat16, which one step takes together.
struct LanePairs {
  typedef __m512bh Part;
  static Part spread(const char* from) {
    int32_t pair;
    memcpy(&pair, from, 4);
    return (Part)_mm512_set1_epi32(pair);
  }
  static Floats add(Floats sum, Part spread, Part lanes) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, spread, lanes);
  }
};

inline bool in_pairs(const LaneAttention& op) { return op.narrow && op.width % 2 == 0; }

inline Bits bfloat16_bits(Floats x) { return (Bits)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)x)); }
#else
inline bool in_pairs(const LaneAttention&) { return false; }

inline Bits bfloat16_bits(Floats x) { return round_to_bfloat16(x); }
#endif

// The factor of output o in step i is the four bytes at `from + o * out_bytes + i * step_bytes`.
struct Factors {
  const char* from;
  int64_t out_bytes, step_bytes, steps;
};

// sums[o][lane] = the sum over i of factor(o, i) * rows[i][lane], for `Outs` outputs and `Vectors` vectors of lanes.
// `Consecutive` factors of a step lie side by side. With `shrink`, products are added to sums[o][lane] * shrink[lane].
template <class Element, int Outs, int Vectors, bool Consecutive>
__attribute__((noinline)) void lane_tile(const Factors& factors, const float* rows, int64_t lanes, const float* shrink,
                                         float* sums) {
  typedef typename Element::Part Part;
  Floats tile[Outs][Vectors] = {};
  const int64_t out_bytes = Consecutive ? 4 : factors.out_bytes, step_bytes = Consecutive ? factors.step_bytes : 4;
  // A pointer for four outputs each: one for each output would be more than there are registers.
  constexpr int kPointers = (Outs + 3) / 4;
  const char* from[kPointers];
  unrolled<kPointers>([&](int p) LYNX_INLINE { from[p] = factors.from + 4 * p * out_bytes; });
  for (int64_t i = 0; i < factors.steps; ++i, rows += lanes) {
    Part held[Vectors];
    unrolled<Vectors>([&](int v) LYNX_INLINE { held[v] = load<Part>(rows + v * kLanes); });
    unrolled<Outs>([&](int o) LYNX_INLINE {
      const Part factor = Element::spread(from[o / 4] + o % 4 * out_bytes);
      unrolled<Vectors>([&](int v) LYNX_INLINE { tile[o][v] = Element::add(tile[o][v], factor, held[v]); });
    });
    unrolled<kPointers>([&](int p) LYNX_INLINE { from[p] += step_bytes; });
  }
  unrolled<Outs>([&](int o) LYNX_INLINE {
    unrolled<Vectors>([&](int v) LYNX_INLINE {
      float* to = sums + o * lanes + v * kLanes;
      if (shrink != nullptr) tile[o][v] += load<Floats>(to) * load<Floats>(shrink + v * kLanes);
      store(to, tile[o][v]);
    });
  });
}

template <class Element, int Vectors, bool Consecutive>
void lane_products_of(Factors factors, int64_t outs, const float* rows, int64_t lanes, const float* shrink,
                      float* sums) {
  constexpr int kOuts = kLaneSums / Vectors;
  int64_t o = 0;
  for (; o + kOuts <= outs; o += kOuts, factors.from += kOuts * factors.out_bytes) {
    lane_tile<Element, kOuts, Vectors, Consecutive>(factors, rows, lanes, shrink, sums + o * lanes);
  }
  for (; o < outs; ++o, factors.from += factors.out_bytes) {
    lane_tile<Element, 1, Vectors, Consecutive>(factors, rows, lanes, shrink, sums + o * lanes);
  }
}

// The products of `outs` outputs with all lanes.
template <class Element, bool Consecutive>
void lane_products(const Factors& factors, int64_t outs, const float* rows, int64_t lanes, const float* shrink,
                   float* sums) {
  int64_t at = 0;
  for (; at + 2 * kLanes <= lanes; at += 2 * kLanes) {
    lane_products_of<Element, 2, Consecutive>(factors, outs, rows + at, lanes, shrink ? shrink + at : nullptr,
                                              sums + at);
  }
  if (at < lanes) {
    lane_products_of<Element, 1, Consecutive>(factors, outs, rows + at, lanes, shrink ? shrink + at : nullptr,
                                              sums + at);
  }
}

// Copies `count` rows of bfloat16, which lie `stride` numbers apart, as float32 without gaps.
void widen_rows(const uint16_t* from, int64_t stride, int64_t count, int64_t width, float* to) {
  for (int64_t row = 0; row < count; ++row) {
    for_vectors(width, [&](int64_t i, int some) {
      const Floats values = load_values(from + row * stride, true, i, some);
      memcpy(to + row * width + i, &values, 4 * some);
    });
  }
}

// Copies pairs of rows of bfloat16 so that the numbers of a pair's two rows alternate. An odd last row is paired with
// zeros.
void interleave_rows(const uint16_t* from, int64_t stride, int64_t count, int64_t width, uint32_t* to) {
  for (int64_t row = 0; row < count; row += 2, from += 2 * stride, to += width) {
    const bool paired = row + 1 < count;
    for_vectors(width, [&](int64_t i, int some) {
      Halves one = {}, other = {};
      memcpy(&one, from + i, 2 * some);
      if (paired) memcpy(&other, from + stride + i, 2 * some);
      const Bits both = __builtin_convertvector(one, Bits) | __builtin_convertvector(other, Bits) << 16;
      memcpy(to + i, &both, 4 * some);
    });
  }
}

// Turns the scores of `count` positions from `at` on into shares of each lane's running total, in place. Writes what
// each lane's earlier sums shrink by. `Pairs` shares become bfloat16, those of two positions in one number.
template <bool Pairs, bool Masked>
void share_lanes(const LaneAttention& op, int64_t at, int64_t count, float* shrinks) {
  for (int64_t lane = 0; lane < op.lanes; lane += kLanes) {
    const Ints first = load<Ints>(op.first + lane), last = load<Ints>(op.last + lane);
    const auto seen = [&](int64_t c) LYNX_INLINE {
      const Ints position = Ints{} + (int32_t)(at + c);
      return (position >= first) & (position <= last);
    };
    float* scores = op.scores + lane;
    const Floats before = load<Floats>(op.tops + lane);
    Floats top = before;
    for (int64_t c = 0; c < count; ++c) {
      Floats score = load<Floats>(scores + c * op.lanes) * op.scale;
      if (Masked) score = seen(c) ? score : Floats{} + kUnseen;
      store(scores + c * op.lanes, score);
      top = score > top ? score : top;
    }
    const Floats shrink = exponential(before - top);
    Floats total = load<Floats>(op.totals + lane) * shrink;
    const auto share = [&](int64_t c) LYNX_INLINE {
      Floats value = exponential(load<Floats>(scores + c * op.lanes) - top);
      if (Masked) value = seen(c) ? value : Floats{};
      total += value;
      return value;
    };
    if constexpr (Pairs) {
      for (int64_t c = 0; c < count; c += 2) {
        const Bits one = bfloat16_bits(share(c));
        const Bits other = c + 1 < count ? bfloat16_bits(share(c + 1)) : Bits{};
        store(scores + c / 2 * op.lanes, one | other << 16);
      }
    } else {
      for (int64_t c = 0; c < count; ++c) store(scores + c * op.lanes, share(c));
    }
    store(shrinks + lane, shrink);
    store(op.tops + lane, top);
    store(op.totals + lane, total);
  }
}

template <bool Pairs>
void share_lanes(const LaneAttention& op, int64_t at, int64_t count, bool masked, float* shrinks) {
  if (masked) share_lanes<Pairs, true>(op, at, count, shrinks);
  else share_lanes<Pairs, false>(op, at, count, shrinks);
}

// Writes the numbers, four bytes each or `Narrow` two, of `count` queries side by side: to[i][lane].
template <bool Narrow>
void pack_lanes(const void* const* queries, int64_t count, int64_t steps, int64_t lanes, float* to) {
  // A few queries at once, whose lines stay in the first-level cache.
  for (int64_t first = 0; first < count; first += kLanes) {
    const int64_t end = first + kLanes < count ? first + kLanes : count;
    for (int64_t i = 0; i < steps; ++i) {
      for (int64_t lane = first; lane < end; ++lane) {
        float* number = to + i * lanes + lane;
        if (Narrow) *number = as_float((uint32_t)static_cast<const uint16_t*>(queries[lane])[i] << 16);
        else memcpy(number, static_cast<const char*>(queries[lane]) + 4 * i, 4);
      }
    }
  }
}

void begin_lanes(const LaneAttention& op, const void* const* queries, int64_t count) {
  if (count < op.lanes) memset(op.queries, 0, 4 * op.width * op.lanes);
  if (op.narrow && !in_pairs(op)) pack_lanes<true>(queries, count, op.width, op.lanes, op.queries);
  else pack_lanes<false>(queries, count, in_pairs(op) ? op.width / 2 : op.width, op.lanes, op.queries);
  memset(op.sums, 0, 4 * op.value_width * op.lanes);
  memset(op.totals, 0, 4 * op.lanes);
  for (int64_t lane = 0; lane < op.lanes; ++lane) op.tops[lane] = kUnseen;
}

void attend_lanes(const LaneAttention& op, const void* keys, const void* values, int64_t at, int64_t count,
                  bool masked) {
  float shrinks[kMostLanes];
#if defined(__AVX512BF16__)
  if (in_pairs(op)) {
    const Factors key{static_cast<const char*>(keys), 2 * op.width, 4, op.width / 2};
    lane_products<LanePairs, false>(key, count, op.queries, op.lanes, nullptr, op.scores);
    share_lanes<true>(op, at, count, masked, shrinks);
    interleave_rows(static_cast<const uint16_t*>(values), op.value_stride, count, op.value_width,
                    reinterpret_cast<uint32_t*>(op.widened));
    const Factors value{reinterpret_cast<const char*>(op.widened), 4, 4 * op.value_width, (count + 1) / 2};
    lane_products<LanePairs, true>(value, op.value_width, op.scores, op.lanes, shrinks, op.sums);
    return;
  }
#endif
  int64_t value_stride = op.value_stride;
  if (op.narrow) widen_rows(static_cast<const uint16_t*>(keys), op.width, count, op.width, op.widened);
  const void* wide = op.narrow ? op.widened : keys;
  const Factors key{static_cast<const char*>(wide), 4 * op.width, 4, op.width};
  lane_products<LaneFloats, false>(key, count, op.queries, op.lanes, nullptr, op.scores);
  share_lanes<false>(op, at, count, masked, shrinks);
  if (op.narrow) {
    widen_rows(static_cast<const uint16_t*>(values), value_stride, count, op.value_width, op.widened);
    values = op.widened;
    value_stride = op.value_width;
  }
  const Factors value{static_cast<const char*>(values), 4, 4 * value_stride, count};
  lane_products<LaneFloats, true>(value, op.value_width, op.scores, op.lanes, shrinks, op.sums);
}

void finish_lanes(const LaneAttention& op, const float* sinks, int64_t count, float* mixed) {
  float factors[kMostLanes];
  for (int64_t lane = 0; lane < op.lanes; lane += kLanes) {
    const Floats top = load<Floats>(op.tops + lane), total = load<Floats>(op.totals + lane);
    Floats factor = Floats{} + 1.0f, whole = total;
    if (sinks != nullptr) {
      const Floats sink = load<Floats>(sinks + lane), most = sink > top ? sink : top;
      factor = exponential(top - most);
      whole = total * factor + exponential(sink - most);
    }
    // A query that sees nothing has a total of zero, and sums of zero.
    store(factors + lane, whole == 0.0f ? Floats{} : factor / whole);
  }
  for (int64_t lane = 0; lane < count; ++lane) {
    for (int64_t u = 0; u < op.value_width; ++u) {
      mixed[lane * op.value_width + u] = op.sums[u * op.lanes + lane] * factors[lane];
    }
  }
}

}  // namespace
}  // namespace lynx
