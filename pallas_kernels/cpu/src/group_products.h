// Products of packed rows with weights of four bits that lie interleaved, where 32 inputs or more share a scale.
//
// Weights are lines of 64 bytes, one cache line each: 16 outputs by 8 inputs. Byte 4 o + i belongs to output o; its low
// half is the number of input i and its high half that of input i + 4. A block of 32 inputs is four lines. The weight
// is (number - 8) * scale. Scales are [block of inputs / `blocks` that share one][16 outputs].
//
// A register holds the same four inputs of kLanes outputs, so a product needs no sum over lanes. A packed row has 8-bit
// integers with one scale for every 32 inputs. Sums over a block are exact integers; the sum of blocks is in float32,
// in the order of inputs, whatever rows and outputs are computed together.
#pragma once

#include "prefetch.h"
#include "products.h"
#include "vectors.h"

namespace lynx {
namespace {

constexpr int kGroupBlock = 32;  // inputs
constexpr int kGroupOuts = 16;   // outputs of a line
constexpr int kLines = 4;        // of a block
constexpr int kLineBytes = 64;

// How bytes of weights meet four values of a row, for a tile of Rows rows. The numbers of a byte are taken apart into
// its low half and its high half, each a byte of `Bytes`.
//   kQuadBytes             bytes of four packed values
//   pack(q, to)            packs the 32 values of a block, from -127 to 127
//   start(offset)          the sum over a block, which begins at `offset`
//   add<High>(sum, both, at)  adds the products of the low or of the high halves with the four values at `at`
//   whole(sum, offset)     the block's sum for each output
inline void pack_bytes(const int32_t* q, char* to) {
  typedef int8_t Narrow __attribute__((vector_size(kLanes)));
  for (int i = 0; i < kGroupBlock; i += kLanes) store(to + i, __builtin_convertvector(load<Ints>(q + i), Narrow));
}

#if defined(__AVX512VNNI__)
// High halves stay 16 times as large where there are registers for sums of their own.
template <int Rows>
struct Quads {
  static constexpr bool kApart = Rows <= 4;
  struct Block {
    __m512i low, high;
  };
  static constexpr int kQuadBytes = 4;
  static void pack(const int32_t* q, char* to) { pack_bytes(q, to); }
  LYNX_INLINE static Block start(int32_t offset) { return {_mm512_set1_epi32(offset), _mm512_setzero_si512()}; }
  template <bool High>
  LYNX_INLINE static Bits halves(Bits both) {
    if (!High) return both & 0x0f0f0f0fu;
    return kApart ? both & 0xf0f0f0f0u : both >> 4 & 0x0f0f0f0fu;
  }
  template <bool High>
  LYNX_INLINE static void add(Block& sum, Bits bytes, const char* at) {
    __m512i& to = High && kApart ? sum.high : sum.low;
    to = _mm512_dpbusd_epi32(to, (__m512i)bytes, _mm512_set1_epi32(load<int32_t>(at)));
  }
  LYNX_INLINE static Ints whole(const Block& sum, int32_t) {
    return kApart ? (Ints)sum.low + ((Ints)sum.high >> 4) : (Ints)sum.low;
  }
};
#elif defined(__AVX512BW__) || defined(__AVX2__)
// Sums of 16 bits: 15 * 127 * 16 is less than 2^15.
template <int Rows>
struct Quads {
#if defined(__AVX512BW__)
  typedef __m512i Block;
  LYNX_INLINE static Block sum_of(Block x, Block y) { return _mm512_add_epi16(x, y); }
  LYNX_INLINE static Block product(Bits bytes, int32_t quad) {
    return _mm512_maddubs_epi16((Block)bytes, _mm512_set1_epi32(quad));
  }
  LYNX_INLINE static Ints pairs(Block sum) { return (Ints)_mm512_madd_epi16(sum, _mm512_set1_epi16(1)); }
#else
  typedef __m256i Block;
  LYNX_INLINE static Block sum_of(Block x, Block y) { return _mm256_add_epi16(x, y); }
  LYNX_INLINE static Block product(Bits bytes, int32_t quad) {
    return _mm256_maddubs_epi16((Block)bytes, _mm256_set1_epi32(quad));
  }
  LYNX_INLINE static Ints pairs(Block sum) { return (Ints)_mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
#endif
  static constexpr int kQuadBytes = 4;
  static void pack(const int32_t* q, char* to) { pack_bytes(q, to); }
  LYNX_INLINE static Block start(int32_t) { return Block{}; }
  template <bool High>
  LYNX_INLINE static Bits halves(Bits both) {
    return (High ? both >> 4 : both) & 0x0f0f0f0fu;
  }
  template <bool High>
  LYNX_INLINE static void add(Block& sum, Bits bytes, const char* at) {
    sum = sum_of(sum, product(bytes, load<int32_t>(at)));
  }
  LYNX_INLINE static Ints whole(Block sum, int32_t offset) { return pairs(sum) + offset; }
};
#else
// Products of 16 bits: of a lane's four bytes, first those at even places and then those at odd places.
template <int Rows>
struct Quads {
  typedef int16_t Block __attribute__((vector_size(4 * kLanes)));
  static constexpr int kQuadBytes = 8;
  static void pack(const int32_t* q, char* to) {
    for (int i = 0; i < kGroupBlock; i += 4, to += kQuadBytes) {
      const int16_t turned[4] = {(int16_t)q[i], (int16_t)q[i + 2], (int16_t)q[i + 1], (int16_t)q[i + 3]};
      memcpy(to, turned, kQuadBytes);
    }
  }
  LYNX_INLINE static Block start(int32_t) { return Block{}; }
  template <bool High>
  LYNX_INLINE static Bits halves(Bits both) {
    return (High ? both >> 4 : both) & 0x0f0f0f0fu;
  }
  template <bool High>
  LYNX_INLINE static void add(Block& sum, Bits bytes, const char* at) {
    const Block even = (Block)(bytes & 0x00ff00ffu), odd = (Block)(bytes >> 8 & 0x00ff00ffu);
    sum += even * (Block)(Bits{} + load<uint32_t>(at)) + odd * (Block)(Bits{} + load<uint32_t>(at + 4));
  }
  LYNX_INLINE static Ints whole(Block sum, int32_t offset) {
    const Ints both = (Ints)sum;
    return (both << 16 >> 16) + (both >> 16) + offset;
  }
};
#endif

// A block of a packed row: eight quads, then what they are multiplied by, then -8 times their sum.
constexpr int kQuadBytes = Quads<1>::kQuadBytes;
constexpr int kScaleAt = 8 * kQuadBytes;
constexpr int kPackedGroup = kScaleAt + 8;

int64_t group_packed_bytes(int64_t inner) {
  const int64_t bytes = (inner + kGroupBlock - 1) / kGroupBlock * kPackedGroup;
  // An odd number of cache lines: see packed_bytes.
  return ((bytes + 63) / 64 | 1) * 64;
}

// Packs the 32 values of one block. The block's products are NaN if a value is NaN or infinite.
inline void pack_group(const float* from, char* to) {
  constexpr int kVectors = kGroupBlock / kLanes;
  Floats values[kVectors], sizes = {};
  Ints numbers = Ints{} - 1;
  for (int v = 0; v < kVectors; ++v) {
    values[v] = load<Floats>(from + v * kLanes);
    const Floats size = (Floats)((Bits)values[v] & 0x7fffffffu);
    sizes = size > sizes ? size : sizes;
    numbers &= values[v] - values[v] == 0.0f;
  }
  float largest = 0;
  bool finite = true;
  for (int lane = 0; lane < kLanes; ++lane) {
    largest = sizes[lane] > largest ? sizes[lane] : largest;
    finite &= numbers[lane] != 0;
  }
  const float scale = finite ? largest / 127 : as_float(0x7fc00000u);
  const float factor = finite && largest > 0 ? 127 / largest : 0;
  int32_t whole[kGroupBlock] = {};
  Ints total = {};
  for (int v = 0; finite && v < kVectors; ++v) {
    const Floats scaled = values[v] * factor, half = scaled < 0.0f ? Floats{} - 0.5f : Floats{} + 0.5f;
    const Ints q = __builtin_convertvector(scaled + half, Ints);
    store(whole + v * kLanes, q);
    total += q;
  }
  Quads<1>::pack(whole, to);
  int32_t offset = 0;
  for (int lane = 0; lane < kLanes; ++lane) offset -= 8 * total[lane];
  memcpy(to + kScaleAt, &scale, 4);
  memcpy(to + kScaleAt + 4, &offset, 4);
}

void pack_groups(const float* row, int64_t inner, void* packed) {
  char* to = static_cast<char*>(packed);
  int64_t i = 0;
  for (; i + kGroupBlock <= inner; i += kGroupBlock, to += kPackedGroup) pack_group(row + i, to);
  if (i == inner) return;
  float last[kGroupBlock] = {};
  memcpy(last, row + i, 4 * (inner - i));
  pack_group(last, to);
}

// kLanes scales of 16 bits as float32.
inline Floats widened_scales(const uint16_t* from, bool half) {
  const Bits bits = __builtin_convertvector(load<Halves>(from), Bits);
  if (!half) return (Floats)(bits << 16);
  const Bits sign = (bits & 0x8000u) << 16, moved = ((bits & 0x7fffu) << 13) + (112u << 23);
  // A subnormal is read as 1.x times the smallest exponent, less 1 times it.
  const Floats small = (Floats)(moved + (1u << 23)) - as_float(113u << 23);
  const Bits is_small = (Bits)((bits & 0x7c00u) == 0);
  return (Floats)(sign | (((Bits)small & is_small) | (moved & ~is_small)));
}

// What a call of multiply_groups reads; a tile moves `weight` and `scales` to its outputs, and `y` to its first.
struct GroupOperands {
  const char* weight;
  const uint16_t* scales;
  bool half;
  int64_t blocks, blocks_a_scale;
  const void* const* packed;
  float* y;
  int64_t y_stride;
};

// Weights and scales that are read next, or null: they are prefetched.
struct GroupsAhead {
  const char *weight, *scales;

  LYNX_INLINE void prefetch(int64_t block) const {
    constexpr PrefetchSettings kSettings = prefetch_settings(1);
    unrolled<kLines>([&](int line) LYNX_INLINE {
      __builtin_prefetch(weight + (block * kLines + line) * kLineBytes, 0, kSettings.locality);
    });
    if (scales != nullptr && block % 2 == 0) __builtin_prefetch(scales + block * 2 * kGroupOuts, 0, kSettings.locality);
  }
};

// Products of Parts * kLanes outputs, from output `first` of the 16 on, with Rows rows. `outs` of them are written.
template <int Parts, int Rows>
__attribute__((noinline)) void multiply_group_tile(const GroupOperands& at, int first, int outs,
                                                   const GroupsAhead& ahead) {
  typedef Quads<Rows> Quad;
  const char* rows[Rows];
  for (int t = 0; t < Rows; ++t) rows[t] = static_cast<const char*>(at.packed[t]);
  Floats sums[Parts][Rows] = {};
  const char* weight = at.weight + 4 * first;
  const uint16_t* scales = at.scales + first;
  int64_t left = at.blocks_a_scale;
  for (int64_t block = 0; block < at.blocks; ++block) {
    if (ahead.weight != nullptr) ahead.prefetch(block);
    typename Quad::Block whole[Parts][Rows];
    unrolled<Rows>([&](int t) LYNX_INLINE {
      const int32_t offset = load<int32_t>(rows[t] + kScaleAt + 4);
      unrolled<Parts>([&](int part) LYNX_INLINE { whole[part][t] = Quad::start(offset); });
    });
    unrolled<kLines>([&](int line) LYNX_INLINE {
      Bits low[Parts], high[Parts];
      unrolled<Parts>([&](int part) LYNX_INLINE {
        const Bits both = load<Bits>(weight + line * kLineBytes + part * 4 * kLanes);
        low[part] = Quad::template halves<false>(both);
        high[part] = Quad::template halves<true>(both);
      });
      unrolled<Rows>([&](int t) LYNX_INLINE {
        const char* quads = rows[t] + 2 * line * kQuadBytes;
        unrolled<Parts>([&](int part) LYNX_INLINE {
          Quad::template add<false>(whole[part][t], low[part], quads);
          Quad::template add<true>(whole[part][t], high[part], quads + kQuadBytes);
        });
      });
    });
    unrolled<Parts>([&](int part) LYNX_INLINE {
      const Floats scale = widened_scales(scales + part * kLanes, at.half);
      unrolled<Rows>([&](int t) LYNX_INLINE {
        const Ints sum = Quad::whole(whole[part][t], load<int32_t>(rows[t] + kScaleAt + 4));
        sums[part][t] += as_floats(sum) * (scale * load<float>(rows[t] + kScaleAt));
      });
    });
    weight += kLines * kLineBytes;
    for (int t = 0; t < Rows; ++t) rows[t] += kPackedGroup;
    if (--left == 0) {
      left = at.blocks_a_scale;
      scales += kGroupOuts;
    }
  }
  for (int t = 0; t < Rows; ++t) {
    float products[Parts * kLanes];
    for (int part = 0; part < Parts; ++part) store(products + part * kLanes, sums[part][t]);
    memcpy(at.y + t * at.y_stride + first, products, 4 * (outs < Parts * kLanes ? outs : Parts * kLanes));
  }
}

// Rows of a tile, at most, and registers of outputs: all sums stay in registers.
constexpr int kMostGroupRows = kManyRegisters ? 8 : 4;
constexpr int group_parts(int rows) {
  const int parts = kGroupOuts / kLanes, fit = kManyRegisters && kLanes < 16 ? 2 : rows <= 2 ? 2 : 1;
  return parts < fit ? parts : fit;
}

// Products::multiply for weights of four bits: tile after tile of 16 outputs, each with all rows.
void multiply_groups(const void* weight, int64_t outs, const Scales& scales, const void* const* packed, int64_t rows,
                     int64_t inner, float* y, int64_t y_stride, const void* following) {
  const int64_t blocks = (inner + kGroupBlock - 1) / kGroupBlock;
  // Inputs are filled up to whole groups.
  const int64_t groups = (blocks + scales.blocks - 1) / scales.blocks;
  const int64_t tile_bytes = groups * scales.blocks * kLines * kLineBytes;
  GroupOperands at{static_cast<const char*>(weight),
                   static_cast<const uint16_t*>(scales.data),
                   scales.half,
                   blocks,
                   scales.blocks,
                   packed,
                   y,
                   y_stride};
  for (int64_t o = 0; o < outs; o += kGroupOuts) {
    const int written = outs - o < kGroupOuts ? (int)(outs - o) : kGroupOuts;
    const bool last = o + kGroupOuts >= outs;
    const char* next_scales = reinterpret_cast<const char*>(at.scales + groups * kGroupOuts);
    GroupsAhead ahead{last ? static_cast<const char*>(following) : at.weight + tile_bytes,
                      last || scales.blocks > 1 ? nullptr : next_scales};
    for (int64_t t = 0, left = (rows + kMostGroupRows - 1) / kMostGroupRows; left > 0; --left) {
      // Groups of rows are even, so that none of them reads the weights for one row alone.
      const int take = (int)((rows - t + left - 1) / left);
      with_constant<kMostGroupRows>(take, [&](auto count) LYNX_INLINE {
        constexpr int kRows = decltype(count)::value, kParts = group_parts(kRows);
        GroupOperands here = at;
        here.packed += t;
        here.y += t * y_stride;
        for (int first = 0; first < written; first += kParts * kLanes) {
          multiply_group_tile<kParts, kRows>(here, first, written - first, ahead);
          ahead = {nullptr, nullptr};
        }
      });
      t += take;
    }
    at.weight += tile_bytes;
    at.scales += groups * kGroupOuts;
    at.y += kGroupOuts;
  }
}

}  // namespace
}  // namespace lynx
