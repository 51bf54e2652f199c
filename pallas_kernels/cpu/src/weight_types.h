// The types of weights that are stored output by output: one struct for each says how its weights meet a packed row. To
// add a type, write its struct here, name it in WeightType (products.h), and add it to the table at the end of
// products.cc.
//
// A weight matrix is stored [out, in]. Its rows are read in blocks of consecutive values. A struct has these members:
//
//   Weight         one stored value
//   Part           a register of weights, or of the row values that they are multiplied by
//   Sum            a register of sums
//   kBlock         values in a block
//   kParts         Parts in a block
//   kPackedBlock   bytes of a block in a packed row
//   kHeader        bytes of a packed row before its first block; a row with a header begins with its float32 scale
//
//   weights(from, part), row(from, part)   load one Part of a block
//   add(sum, weights, row)                 returns sum + weights * row
//   pack(row, inner, packed)               writes the `inner` values of a float32 row as a packed row
//
// The template parameter `Full` is true in a tile that needs all registers: see LYNX_ORDERED_TILES.
#pragma once

#include "vectors.h"

namespace lynx {
namespace {

#if defined(__AVX512BF16__)
struct Bfloat16 {
  typedef uint16_t Weight;
  typedef __m512bh Part;
  typedef Floats Sum;
  static constexpr int kBlock = 32, kParts = 1;
  static constexpr int kPackedBlock = 64;
  static constexpr int kHeader = 0;

  template <bool>
  static Part weights(const uint16_t* from, int) {
    return load<Part>(from);
  }
  template <bool>
  static Part row(const char* from, int) {
    return load<Part>(from);
  }
  template <bool>
  static Sum add(Sum sum, Part weights, Part row) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, weights, row);
  }
  static void pack(const float* row, int64_t inner, char* packed) {
    narrow(row, inner, reinterpret_cast<uint16_t*>(packed));
  }
};
#else
#if LYNX_ORDERED_TILES
alignas(32) const uint32_t kUpperHalves[8] = {0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u,
                                              0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};
#endif

// A register of weights is widened to two registers of float32: the values at even places, then those at odd places.
// Packed rows have the same order.
struct Bfloat16 {
  typedef uint16_t Weight;
  typedef Floats Part;
  typedef Floats Sum;
  static constexpr int kBlock = 2 * kLanes, kParts = 2;
  static constexpr int kPackedBlock = 8 * kLanes;
  static constexpr int kHeader = 0;

  template <bool Full>
  static Part weights(const uint16_t* from, int part) {
#if LYNX_ORDERED_TILES
    if constexpr (Full) {
      Part weights;
      const __m256i_u& both = *reinterpret_cast<const __m256i_u*>(from);
      if (part == 0) {
        asm volatile("vmovdqu %1, %0\n\tvpslld $16, %0, %0" : "=x"(weights) : "m"(both));
      } else {
        // The mask is read from memory: in a register it would displace one of the tile's sums.
        asm volatile("vmovdqa %2, %0\n\tvpand %1, %0, %0" : "=&x"(weights) : "m"(both), "m"(kUpperHalves));
      }
      return weights;
    }
#endif
    const Bits both = load<Bits>(from);
    return part == 0 ? (Floats)(both << 16) : (Floats)(both & 0xffff0000u);
  }
  template <bool Full>
  static Part row(const char* from, int part) {
    return load_in_order<Full, Part>(from + part * 4 * kLanes);
  }
  template <bool Full>
  static Sum add(Sum sum, Part weights, Part row) {
    return add_in_order<Full>(sum, weights, row);
  }
  static void pack(const float* row, int64_t inner, char* packed) {
    // The rounded values are first written to the second half of `packed`. Widening them from there, front to back,
    // never overwrites one that is still to be read.
    const int64_t blocks = inner / kBlock;
    char* bits = packed + blocks * kPackedBlock / 2;
    narrow(row, blocks * kBlock, reinterpret_cast<uint16_t*>(bits));
    for (int64_t block = 0; block < blocks; ++block) {
      const Bits both = load<Bits>(bits + block * 2 * kBlock);
      store(packed + block * kPackedBlock, both << 16);
      store(packed + block * kPackedBlock + kPackedBlock / 2, both & 0xffff0000u);
    }
    char* last = packed + blocks * kPackedBlock;
    for (int64_t i = 0; i < inner % kBlock; ++i) {
      const float rounded = as_float((uint32_t)round_to_bfloat16(row[blocks * kBlock + i]) << 16);
      memcpy(last + 4 * (i % 2 * kLanes + i / 2), &rounded, 4);
    }
  }
};
#endif

struct Float32 {
  typedef float Weight;
  typedef Floats Part;
  typedef Floats Sum;
  static constexpr int kBlock = kLanes, kParts = 1;
  static constexpr int kPackedBlock = 4 * kLanes;
  static constexpr int kHeader = 0;

  template <bool Full>
  static Part weights(const float* from, int) {
    return load_in_order<Full, Part>(from);
  }
  template <bool Full>
  static Part row(const char* from, int) {
    return load_in_order<Full, Part>(from);
  }
  template <bool Full>
  static Sum add(Sum sum, Part weights, Part row) {
    return add_in_order<Full>(sum, weights, row);
  }
  static void pack(const float* row, int64_t inner, char* packed) { memcpy(packed, row, 4 * inner); }
};

// Packed rows hold 16-bit integers under one scale, and sums are exact 32-bit integers. A row's largest value gets as
// many bits as fit such a sum over `inner` products.
struct Int8 {
  typedef int8_t Weight;
#if defined(__AVX512BW__)
  typedef __m512i Part;
  static constexpr int kParts = 1;
  template <bool>
  static Part weights(const int8_t* from, int) {
    return _mm512_cvtepi8_epi16(load<__m256i>(from));
  }
  template <bool>
  static Part row(const char* from, int) {
    return load<Part>(from);
  }
  template <bool>
  static Ints add(Ints sum, Part weights, Part row) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpwssd_epi32((__m512i)sum, weights, row);
#else
    return sum + (Ints)_mm512_madd_epi16(weights, row);
#endif
  }
#elif defined(__AVX2__)
  typedef __m256i Part;
  static constexpr int kParts = 1;
  template <bool>
  static Part weights(const int8_t* from, int) {
    return _mm256_cvtepi8_epi16(load<__m128i>(from));
  }
  template <bool>
  static Part row(const char* from, int) {
    return load<Part>(from);
  }
  template <bool>
  static Ints add(Ints sum, Part weights, Part row) {
    return sum + (Ints)_mm256_madd_epi16(weights, row);
  }
#else
  typedef Ints Part;
  static constexpr int kParts = 2;
  template <bool>
  static Part weights(const int8_t* from, int part) {
    typedef int8_t Narrow __attribute__((vector_size(kLanes)));
    return __builtin_convertvector(load<Narrow>(from + part * kLanes), Ints);
  }
  template <bool>
  static Part row(const char* from, int part) {
    return __builtin_convertvector(load<Shorts>(from + part * 2 * kLanes), Ints);
  }
  template <bool>
  static Ints add(Ints sum, Part weights, Part row) {
    return sum + weights * row;
  }
#endif
  typedef Ints Sum;
  static constexpr int kBlock = 2 * kLanes;
  static constexpr int kPackedBlock = 4 * kLanes;
  static constexpr int kHeader = 64;

  static void pack(const float* row, int64_t inner, char* packed) {
    const int64_t blocks = (inner + kBlock - 1) / kBlock;
    const int64_t bound = 0x7fffffff / (2 * 127 * blocks);
    const float most = bound < 32767 ? (float)bound : 32767.0f;
    Floats sizes = {};
    Ints numbers = Ints{} - 1;
    for_vectors(inner, [&](int64_t i, int some) {
      const Floats x = load_some(row + i, some), size = (Floats)((Bits)x & 0x7fffffffu);
      sizes = size > sizes ? size : sizes;
      numbers &= x - x == 0.0f;
    });
    float largest = 0;
    bool finite = true;
    for (int lane = 0; lane < kLanes; ++lane) {
      largest = sizes[lane] > largest ? sizes[lane] : largest;
      finite &= numbers[lane] != 0;
    }
    // The products of a row that holds NaN or infinity are NaN, because its scale is.
    const float scale = finite ? largest / most : as_float(0x7fc00000u);
    const float factor = finite && largest > 0 ? most / largest : 0;
    memcpy(packed, &scale, 4);
    if (!finite) return;
    for_vectors(inner, [&](int64_t i, int some) {
      const Floats scaled = load_some(row + i, some) * factor;
      const Floats half = scaled < 0.0f ? Floats{} - 0.5f : Floats{} + 0.5f;
      const Shorts whole = __builtin_convertvector(__builtin_convertvector(scaled + half, Ints), Shorts);
      memcpy(packed + kHeader + 2 * i, &whole, 2 * some);
    });
  }
};

template <class Type>
int64_t packed_bytes(int64_t inner) {
  const int64_t bytes = Type::kHeader + (inner + Type::kBlock - 1) / Type::kBlock * Type::kPackedBlock;
  // An odd number of cache lines, so that the same inputs of several rows do not compete for one set of a cache.
  return ((bytes + 63) / 64 | 1) * 64;
}

// Packs a row. The values after the end of the row are zeros, as are those after the end of a weight's row.
template <class Type>
void pack(const float* row, int64_t inner, void* packed) {
  char* to = static_cast<char*>(packed);
  const int64_t whole = inner / Type::kBlock * Type::kPackedBlock;
  memset(to + Type::kHeader + whole, 0, packed_bytes<Type>(inner) - Type::kHeader - whole);
  Type::pack(row, inner, to);
}

}  // namespace
}  // namespace lynx
