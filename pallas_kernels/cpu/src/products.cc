// Built once for each instruction set, with LYNX_SET its name and LYNX_LANES the float32 lanes of a vector. Nothing of
// the C++ library is used: an inline function of it, built here with wider instructions, could be the one that the
// linker keeps for all.
#include "products.h"

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace lynx {
namespace {

constexpr int kLanes = LYNX_LANES;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes)));

// body(0), body(1), ... body(Count - 1), each a copy: indices are constants, so that small arrays become registers.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
// Sanitized copies take minutes to compile.
#define LYNX_INLINE
template <int Count, class Body>
inline void unrolled(const Body& body) {
  for (int i = 0; i < Count; ++i) body(i);
}
#else
#define LYNX_INLINE __attribute__((always_inline))
template <int Count, class Body>
LYNX_INLINE inline void unrolled(const Body& body) {
  if constexpr (Count > 1) unrolled<Count - 1>(body);
  body(Count - 1);
}
#endif

template <class Vector>
inline Vector load(const void* from) {
  Vector vector;
  memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <class Vector>
inline void store(void* to, Vector vector) {
  memcpy(to, &vector, sizeof(vector));
}

inline float as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t as_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

// Runs `body` over whole vectors, and over one more that is filled up with zeros.
template <class Body>
inline void for_vectors(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, (int)kLanes);
  if (i < count) body(i, (int)(count - i));
}

inline Floats load_some(const float* from, int count) {
  if (count == kLanes) return load<Floats>(from);
  Floats vector = {};
  memcpy(&vector, from, 4 * count);
  return vector;
}

inline Bits round_to_bfloat16(Floats x) {
  const Bits bits = (Bits)x;
  const Bits rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const Bits is_nan = (Bits)(x != x);
  return ((rounded & ~is_nan) | (bits & is_nan) | (is_nan & 0x00400000u)) >> 16;
}

inline uint16_t round_to_bfloat16(float x) {
  const uint32_t bits = as_bits(x);
  if (x != x) return (uint16_t)((bits >> 16) | 0x40);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void narrow(const float* x, int64_t count, uint16_t* out) {
  typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store(out + i, __builtin_convertvector(round_to_bfloat16(load<Floats>(x + i)), Halves));
  }
  for (; i < count; ++i) out[i] = round_to_bfloat16(x[i]);
}

// The lanes' sum, halves onto halves: the same order always.
inline float sum(Floats vector) {
#if defined(__AVX512F__)
  if (kLanes == 16) return _mm512_reduce_add_ps((__m512)vector);
#elif defined(__AVX2__)
  const __m256 whole = (__m256)vector;
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(whole), _mm256_extractf128_ps(whole, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#endif
  float lanes[kLanes];
  store(lanes, vector);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// The lanes' sums of four vectors, halves onto halves, in few instructions more than one sum takes.
struct Four {
  float of[4];
};
LYNX_INLINE inline Four sums_of(Floats a, Floats b, Floats c, Floats d) {
  Four four;
#if defined(__AVX512F__)
  const auto halves = [](__m512 x, __m512 y) LYNX_INLINE {
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
  };
  const __m512 ab = halves((__m512)a, (__m512)b), cd = halves((__m512)c, (__m512)d);
  const __m512 quarters = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  const __m512 pairs = _mm512_add_ps(quarters, _mm512_permute_ps(quarters, 0x4e));
  const __m512 wholes = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0xb1));
  const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm_storeu_ps(four.of, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, wholes)));
#elif defined(__AVX2__)
  const auto halves = [](__m256 x, __m256 y) LYNX_INLINE {
    return _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
  };
  const __m256 ab = halves((__m256)a, (__m256)b), cd = halves((__m256)c, (__m256)d);
  const __m256 pairs = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  const __m256 wholes = _mm256_hadd_ps(pairs, pairs);  // a c a c, b d b d
  _mm_storeu_ps(four.of, _mm_unpacklo_ps(_mm256_castps256_ps128(wholes), _mm256_extractf128_ps(wholes, 1)));
#else
  four = {sum(a), sum(b), sum(c), sum(d)};
#endif
  return four;
}

inline Floats as_floats(Floats vector) { return vector; }
inline Floats as_floats(Ints vector) { return __builtin_convertvector(vector, Floats); }

// A tile whose sums, weights and rows take all of 16 registers (`Full`) has its instructions in the order that they are
// written in: GCC would gather the loads, and keep sums in memory for it.
#if defined(__AVX2__) && !defined(__AVX512F__)
#define LYNX_FEW_REGISTERS 1
alignas(32) const uint32_t kOdd[8] = {0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u,
                                      0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};
#else
#define LYNX_FEW_REGISTERS 0
#endif

template <bool Full, class Vector>
LYNX_INLINE inline Vector load_in_order(const void* from) {
#if LYNX_FEW_REGISTERS
  if constexpr (Full) {
    Vector vector;
    asm volatile("vmovups %1, %0" : "=x"(vector) : "m"(*static_cast<const __m256_u*>(from)));
    return vector;
  }
#endif
  return load<Vector>(from);
}

template <bool Full>
LYNX_INLINE inline Floats add_in_order(Floats sum, Floats x, Floats y) {
#if LYNX_FEW_REGISTERS
  if constexpr (Full) {
    asm volatile("vfmadd231ps %1, %2, %0" : "+x"(sum) : "x"(x), "x"(y));
    return sum;
  }
#endif
  return sum + x * y;
}

// Each of the following says how one type of weight meets a packed row, a block of kBlock values at a time.

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
// Weights are widened two at a time, those at even places and those at odd ones; rows lie packed likewise.
struct Bfloat16 {
  typedef uint16_t Weight;
  typedef Floats Part;
  typedef Floats Sum;
  static constexpr int kBlock = 2 * kLanes, kParts = 2;
  static constexpr int kPackedBlock = 8 * kLanes;
  static constexpr int kHeader = 0;

  template <bool Full>
  static Part weights(const uint16_t* from, int part) {
#if LYNX_FEW_REGISTERS
    if constexpr (Full) {
      Part weights;
      const __m256i_u& both = *reinterpret_cast<const __m256i_u*>(from);
      if (part == 0) {
        asm volatile("vmovdqu %1, %0\n\tvpslld $16, %0, %0" : "=x"(weights) : "m"(both));
      } else {
        // A mask in a register would take that of the tile's last sum.
        asm volatile("vmovdqa %2, %0\n\tvpand %1, %0, %0" : "=&x"(weights) : "m"(both), "m"(kOdd));
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
    // Bits lie in the second half, until the blocks, which are twice as wide, come to where they have been read.
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

// Rows as 16-bit integers, so that sums are exact in 32 bits: the largest of a row gets as many bits as its length
// leaves. A packed row begins with its scale.
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
    typedef int16_t Short __attribute__((vector_size(2 * kLanes)));
    return __builtin_convertvector(load<Short>(from + part * 2 * kLanes), Ints);
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
    // A row that is not finite gives NaN.
    const float scale = finite ? largest / most : as_float(0x7fc00000u);
    const float factor = finite && largest > 0 ? most / largest : 0;
    memcpy(packed, &scale, 4);
    if (!finite) return;
    typedef int16_t Shorts __attribute__((vector_size(2 * kLanes)));
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
  // An odd number of lines, so that the same inputs of several rows do not fall into one set of a cache.
  return ((bytes + 63) / 64 | 1) * 64;
}

template <class Type>
void pack(const float* row, int64_t inner, void* packed) {
  // Zeros past the end, where the last block of a weight has zeros as well.
  char* to = static_cast<char*>(packed);
  const int64_t whole = inner / Type::kBlock * Type::kPackedBlock;
  memset(to + Type::kHeader + whole, 0, packed_bytes<Type>(inner) - Type::kHeader - whole);
  Type::pack(row, inner, to);
}

// What a tile asks memory for while it computes: of the lines from `ahead` on, in the order of their addresses, its
// share, which is what it reads itself at each step of `every` that is its `turn`; hardware prefetchers stop at every
// page and start anew with every row.
struct Fetch {
  const char* ahead;
  int turn, every;
};

// How processors take it best, by `benchmarks.kernels.product_bandwidth`: the cache that lines go to (3 is the
// nearest); how often the first of the tiles that read the same weight asks again for that, shortly before its use; and
// up to how many such tiles, of how many bytes of rows, all ask for everything, as a processor may drop a request while
// too many are under way.
struct Asking {
  int level, again, repeating;
  int64_t most_bytes;
};
#if defined(__AVX512BF16__) && !LYNX_TILES
// Measured on AMD's Zen 5.
constexpr Asking asking(int) { return {3, 0, 1 << 30, 72 << 10}; }
#else
// On Zen 3. Integers of a byte keep the processor busier than memory. With more than a few tiles, arithmetic is what
// takes the time.
constexpr Asking asking(int weight_bytes) { return {2, weight_bytes > 1 ? 3 : 1, 4, INT64_MAX}; }
#endif

// Which blocks of the inputs a tile sums up. Sums of the earlier ones come from `sums` and go there for the later ones,
// `Rows` for each output; it may be null where a tile takes all blocks.
template <class Sum>
struct Part {
  int64_t begin, end;
  Sum* sums;
};

// Outs x Rows sums in registers, of `Outs` weight rows that lie one after the other.
template <class Type, int Outs, int Rows, bool First, bool InParts>
inline void tile(const typename Type::Weight* weight, const float* scales, const void* const* packed, int64_t inner,
                 float* y, int64_t y_stride, Fetch fetch, Part<typename Type::Sum> part) {
  typedef typename Type::Weight Weight;
  constexpr int kBlockBytes = Type::kBlock * (int)sizeof(Weight);
  constexpr Asking kAsking = asking(sizeof(Weight));
  constexpr int kSoon = 1024;
  // Blocks of one line of memory.
  constexpr int kStep = kBlockBytes < 64 ? 64 / kBlockBytes : 1;
  constexpr bool kFull = Outs * Rows > 8;
  typename Type::Sum sums[Outs][Rows] = {};
  if (InParts && part.begin > 0) {
    unrolled<Outs>(
        [&](int o) LYNX_INLINE { unrolled<Rows>([&](int t) LYNX_INLINE { sums[o][t] = part.sums[o * Rows + t]; }); });
  }
  const char* rows[Rows];
  for (int t = 0; t < Rows; ++t) rows[t] = static_cast<const char*>(packed[t]) + Type::kHeader;
  const int64_t blocks = inner / Type::kBlock;
  // What is used more often stays in registers: rows, where there are no more of them than outputs.
  const auto add_block = [&](int64_t block) LYNX_INLINE {
    unrolled<Type::kParts>([&](int part) LYNX_INLINE {
      const Weight* from = weight + block * Type::kBlock;
      const int64_t at = block * Type::kPackedBlock;
      if constexpr (Outs >= Rows) {
        typename Type::Part held[Rows];
        unrolled<Rows>([&](int t) LYNX_INLINE { held[t] = Type::template row<kFull>(rows[t] + at, part); });
        unrolled<Outs>([&](int o) LYNX_INLINE {
          const typename Type::Part weights = Type::template weights<kFull>(from + o * inner, part);
          unrolled<Rows>([&](int t)
                             LYNX_INLINE { sums[o][t] = Type::template add<kFull>(sums[o][t], weights, held[t]); });
        });
      } else {
        typename Type::Part held[Outs];
        unrolled<Outs>([&](int o) LYNX_INLINE { held[o] = Type::template weights<kFull>(from + o * inner, part); });
        unrolled<Rows>([&](int t) LYNX_INLINE {
          const typename Type::Part row = Type::template row<kFull>(rows[t] + at, part);
          unrolled<Outs>([&](int o) LYNX_INLINE { sums[o][t] = Type::template add<kFull>(sums[o][t], held[o], row); });
        });
      }
    });
  };
  const int64_t end = InParts ? part.end : blocks;
  int64_t block = InParts ? part.begin : 0;
  int wait = fetch.turn;
  for (; block + kStep <= end; block += kStep) {
    if (wait-- == 0) {
      wait = fetch.every - 1;
      const char* line = fetch.ahead + block * Outs * kBlockBytes;
#pragma GCC unroll 8
      for (int o = 0; o < Outs; ++o) __builtin_prefetch(line + o * kStep * kBlockBytes, 0, kAsking.level);
    }
    if constexpr (First && kAsking.again > 0) {
#pragma GCC unroll 8
      for (int o = 0; o < Outs; ++o) {
        const char* line = reinterpret_cast<const char*>(weight + o * inner + block * Type::kBlock);
        unrolled<kAsking.again>([&](int nearer) LYNX_INLINE { __builtin_prefetch(line + (kSoon >> nearer)); });
      }
    }
    unrolled<kStep>([&](int step) LYNX_INLINE { add_block(block + step); });
  }
  for (; block < end; ++block) add_block(block);
  if (InParts && end < blocks) {
    unrolled<Outs>(
        [&](int o) LYNX_INLINE { unrolled<Rows>([&](int t) LYNX_INLINE { part.sums[o * Rows + t] = sums[o][t]; }); });
    return;
  }
  if (const int64_t rest = inner % Type::kBlock) {
    unrolled<Outs>([&](int o) LYNX_INLINE {
      Weight last[Type::kBlock] = {};
      memcpy(last, weight + o * inner + blocks * Type::kBlock, rest * sizeof(Weight));
      unrolled<Type::kParts>([&](int part) LYNX_INLINE {
        const typename Type::Part weights = Type::template weights<kFull>(last, part);
        unrolled<Rows>([&](int t) LYNX_INLINE {
          sums[o][t] = Type::template add<kFull>(
              sums[o][t], weights, Type::template row<kFull>(rows[t] + blocks * Type::kPackedBlock, part));
        });
      });
    });
  }
  unrolled<Rows>([&](int t) LYNX_INLINE {
    const auto of = [&](int o) LYNX_INLINE { return as_floats(sums[o < Outs ? o : Outs - 1][t]); };
    Four products = sums_of(of(0), of(1), of(2), of(3));
    if constexpr (Type::kHeader > 0) {
      float scale;
      memcpy(&scale, packed[t], 4);
      unrolled<Outs>([&](int o) LYNX_INLINE { products.of[o] *= scale * scales[o]; });
    }
    memcpy(y + t * y_stride, products.of, 4 * Outs);
  });
}

constexpr int kOuts = 4;

// How rows are taken: sums, weights and rows of a tile fit the vector registers, of which there are 32 or 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kMostRows = 6;
constexpr int outs_of(int) { return kOuts; }
constexpr int64_t groups_of(int64_t rows) { return (rows + kMostRows - 1) / kMostRows; }
// Evenly, so that no group is of one row and reads the weights for that alone.
constexpr int64_t take_of(int64_t left, int64_t groups) { return (left + groups - 1) / groups; }
#else
constexpr int outs_of(int rows) { return rows <= 3 ? kOuts : 2; }
// In threes, which need the fewest loads. Four that are left are two twice, which compute faster than four at once;
// four alone read their weights once.
constexpr int64_t groups_of(int64_t rows) { return rows <= 4 ? 1 : (rows + 2) / 3; }
constexpr int64_t take_of(int64_t left, int64_t groups) { return groups == 1 ? left : left == 4 ? 2 : 3; }
#endif

// `Most` outputs of Rows rows, or one.
template <class Type, int Most, int Rows, bool First, bool InParts>
inline void columns(const typename Type::Weight* weight, const float* scales, const void* const* packed, int64_t inner,
                    float* y, int64_t y_stride, Fetch fetch, Part<typename Type::Sum> part) {
  constexpr int kTile = Most < outs_of(Rows) ? Most : outs_of(Rows);
  for (int o = 0; o < Most; o += kTile) {
    const int64_t bytes = o * inner * (int64_t)sizeof(typename Type::Weight);
    tile<Type, kTile, Rows, First, InParts>(weight + o * inner, scales + (Type::kHeader ? o : 0), packed, inner, y + o,
                                            y_stride, {fetch.ahead + bytes, fetch.turn, fetch.every},
                                            {part.begin, part.end, part.sums + (InParts ? o * Rows : 0)});
  }
}

template <class Type, int Most, bool First, bool InParts>
inline void row_group(int take, const typename Type::Weight* weight, const float* scales, const void* const* packed,
                      int64_t inner, float* y, int64_t y_stride, Fetch fetch, Part<typename Type::Sum> part) {
  switch (take) {
    case 1: return columns<Type, Most, 1, First, InParts>(weight, scales, packed, inner, y, y_stride, fetch, part);
    case 2: return columns<Type, Most, 2, First, InParts>(weight, scales, packed, inner, y, y_stride, fetch, part);
    case 3: return columns<Type, Most, 3, First, InParts>(weight, scales, packed, inner, y, y_stride, fetch, part);
    case 4: return columns<Type, Most, 4, First, InParts>(weight, scales, packed, inner, y, y_stride, fetch, part);
#if defined(__AVX512F__) || defined(__aarch64__)
    case 5: return columns<Type, Most, 5, First, InParts>(weight, scales, packed, inner, y, y_stride, fetch, part);
    case 6: return columns<Type, Most, 6, First, InParts>(weight, scales, packed, inner, y, y_stride, fetch, part);
#endif
  }
}

template <class Type, int Most>
inline void tiles(const typename Type::Weight* weight, const float* scales, const void* const* packed, int64_t rows,
                  int64_t inner, float* y, int64_t y_stride, const char* ahead) {
  const int all = (int)groups_of(rows);
  constexpr Asking kAsking = asking(sizeof(typename Type::Weight));
  const bool repeat = all <= kAsking.repeating && rows * packed_bytes<Type>(inner) <= kAsking.most_bytes;
  for (int64_t t = 0, group = 0; group < all; ++group) {
    const int take = (int)take_of(rows - t, all - group);
    float* to = y + t * y_stride;
    const Fetch fetch = repeat ? Fetch{ahead, 0, 1} : Fetch{ahead, (int)group, all};
    if (t == 0) row_group<Type, Most, true, false>(take, weight, scales, packed, inner, to, y_stride, fetch, {});
    else row_group<Type, Most, false, false>(take, weight, scales, packed + t, inner, to, y_stride, fetch, {});
    t += take;
  }
}

// Whether rows are many: more than the nearest cache keeps while weights pass, and enough that passing over weights
// once for each group of them costs less than that.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool are_many(int64_t rows, int64_t packed_bytes) {
  return rows > 3 * kMostRows && rows * packed_bytes > 48 << 10;
}
#else
// Groups of three are too few, by `benchmarks.kernels.product_bandwidth`.
constexpr int kMostRows = 4;
constexpr bool are_many(int64_t, int64_t) { return false; }
#endif

// Bytes of weights that stay in a core's second cache, and of packed rows that stay in its nearest one; outputs at a
// time whose sums are put aside between parts of the inputs.
constexpr int64_t kStretchBytes = 256 << 10, kGroupBytes = 24 << 10, kMostAside = 32;

template <class Type>
constexpr int64_t most_blocks() {
  return kGroupBytes / (kMostRows * Type::kPackedBlock);
}

// Groups of rows stay in the nearest cache in turns while `outs` outputs pass, as many of their inputs at a time as
// fit. The first group asks for the weights of its next tile, the others share in asking for `following`.
template <class Type>
void stretch(const typename Type::Weight* weight, int64_t outs, const float* scales, const void* const* packed,
             int64_t rows, int64_t inner, float* y, int64_t y_stride, const typename Type::Weight* following) {
  typedef typename Type::Weight Weight;
  typename Type::Sum sums[kMostAside * kMostRows];
  const int64_t blocks = inner / Type::kBlock, most = most_blocks<Type>();
  const int64_t parts = blocks <= most ? 1 : (blocks + most - 1) / most;
  const int all = (int)groups_of(rows);
  for (int64_t t = 0, group = 0; group < all; ++group) {
    const int take = (int)take_of(rows - t, all - group);
    for (int64_t i = 0; i < parts; ++i) {
      // At even blocks, where a line of memory begins for every type.
      const auto bound = [&](int64_t i) { return i == parts ? blocks : blocks * i / parts / 2 * 2; };
      for (int64_t o = 0; o < outs; o += kOuts) {
        const Weight *here = weight + o * inner, *next = o + kOuts < outs ? here + kOuts * inner : weight;
        const Fetch fetch = group == 0
                                ? Fetch{reinterpret_cast<const char*>(next), 0, 1}
                                : Fetch{reinterpret_cast<const char*>(following + o * inner), (int)group - 1, all - 1};
        row_group<Type, kOuts, false, true>(take, here, scales + (Type::kHeader ? o : 0), packed + t, inner,
                                            y + t * y_stride + o, y_stride, fetch,
                                            {bound(i), bound(i + 1), sums + o % kMostAside * take});
      }
    }
    t += take;
  }
}

// Whole tiles of many rows; returns how many outputs those are.
template <class Type>
int64_t multiply_many(const typename Type::Weight* weight, int64_t outs, const float* scales, const void* const* packed,
                      int64_t rows, int64_t inner, float* y, int64_t y_stride, const typename Type::Weight* following) {
  const int64_t whole = outs / kOuts * kOuts;
  const int64_t fit = kStretchBytes / (inner * (int64_t)sizeof(*weight)) / kOuts * kOuts;
  const int64_t least = fit < kOuts ? kOuts : fit;
  const int64_t size = inner / Type::kBlock > most_blocks<Type>() && least > kMostAside ? kMostAside : least;
  for (int64_t o = 0; o < whole; o += size) {
    const int64_t after = o + size, take = after < whole ? size : whole - o;
    stretch<Type>(weight + o * inner, take, scales + (Type::kHeader ? o : 0), packed, rows, inner, y + o, y_stride,
                  after < whole ? weight + after * inner : following);
  }
  return whole;
}

template <class Type>
void multiply(const void* weight, int64_t outs, const float* scales, const void* const* packed, int64_t rows,
              int64_t inner, float* y, int64_t y_stride, const void* following) {
  typedef typename Type::Weight Weight;
  const Weight* from = static_cast<const Weight*>(weight);
  const Weight* after = following == nullptr ? from + outs * inner : static_cast<const Weight*>(following);
  int64_t o = 0;
  if (are_many(rows, packed_bytes<Type>(inner))) {
    o = multiply_many<Type>(from, outs, scales, packed, rows, inner, y, y_stride, after);
  }
  for (; o + kOuts <= outs; o += kOuts) {
    const Weight* here = from + o * inner;
    tiles<Type, kOuts>(here, scales + (Type::kHeader ? o : 0), packed, rows, inner, y + o, y_stride,
                       reinterpret_cast<const char*>(o + 2 * kOuts <= outs ? here + kOuts * inner : after));
  }
  for (; o < outs; ++o) {
    const Weight* here = from + o * inner;
    tiles<Type, 1>(here, scales + (Type::kHeader ? o : 0), packed, rows, inner, y + o, y_stride,
                   reinterpret_cast<const char*>(here + inner));
  }
}

// e to the x within 2e-7 of its size, for x in [-87, 88]: 2 to the n, times a polynomial of what is left.
inline Floats exponential(Floats x) {
  x = x < -87.0f ? Floats{} - 87.0f : x;
  x = x > 88.0f ? Floats{} + 88.0f : x;
  const Floats shifted = x * 1.44269504088896341f + 12582912.0f;
  const Floats n = shifted - 12582912.0f;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Bits power = ((Bits)shifted << 23) + 0x3f800000u;
  return p * (Floats)power;
}

void swiglu(const float* gate, const float* up, int64_t count, Activation activation, float* out) {
  const Floats limit = Floats{} + activation.limit;
  for_vectors(count, [&](int64_t i, int some) {
    Floats g = load_some(gate + i, some), u = load_some(up + i, some);
    g = g > limit ? limit : g;
    u = u > limit ? limit : u;
    u = u < -limit ? -limit : u;
    const Floats y = g / (1.0f + exponential(-activation.alpha * g)) * (u + activation.shift);
    memcpy(out + i, &y, 4 * some);
  });
}

void add_scaled(float factor, const float* x, int64_t count, float* y) {
  for_vectors(count, [&](int64_t i, int some) {
    const Floats sum = load_some(y + i, some) + factor * load_some(x + i, some);
    memcpy(y + i, &sum, 4 * some);
  });
}

inline Floats load_values(const void* from, bool narrow, int64_t at, int some) {
  if (!narrow) return load_some(static_cast<const float*>(from) + at, some);
  typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
  Halves halves = {};
  memcpy(&halves, static_cast<const uint16_t*>(from) + at, 2 * some);
  return (Floats)(__builtin_convertvector(halves, Bits) << 16);
}

void finish(const float* sums, const void* bias, const void* residual, bool narrow, int64_t count, void* y,
            bool y_narrow) {
  typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
  for_vectors(count, [&](int64_t i, int some) {
    Floats x = load_some(sums + i, some);
    if (bias != nullptr) x += load_values(bias, narrow, i, some);
    if (residual != nullptr) x += load_values(residual, narrow, i, some);
    if (y_narrow) {
      const Halves halves = __builtin_convertvector(round_to_bfloat16(x), Halves);
      memcpy(static_cast<uint16_t*>(y) + i, &halves, 2 * some);
    } else {
      memcpy(static_cast<float*>(y) + i, &x, 4 * some);
    }
  });
}

// The largest that is a number of some vectors, the last of which may be filled up.
class Top {
 public:
  void add(Floats x, int some) {
    for (int lane = some; lane < kLanes; ++lane) x[lane] = -__builtin_inff();
    most_ = x > most_ ? x : most_;
  }
  float value() const {
    float top = most_[0];
    for (int lane = 1; lane < kLanes; ++lane) top = most_[lane] > top ? most_[lane] : top;
    return top;
  }

 private:
  Floats most_ = Floats{} - __builtin_inff();
};

float scale(float factor, int64_t count, float* x) {
  Top top;
  for_vectors(count, [&](int64_t i, int some) {
    const Floats y = load_some(x + i, some) * factor;
    memcpy(x + i, &y, 4 * some);
    top.add(y, some);
  });
  return top.value();
}

void scale_each(float factor, const float* scales, int64_t count, float* x) {
  for_vectors(count, [&](int64_t i, int some) {
    const Floats y = load_some(x + i, some) * factor * load_some(scales + i, some);
    memcpy(x + i, &y, 4 * some);
  });
}

void turn(const float* cosines, const float* sines, int64_t width, int64_t count, float* x) {
  const int64_t half = width / 2;
  for (float* head = x; head < x + count; head += width) {
    for_vectors(half, [&](int64_t i, int some) {
      const Floats real = load_some(head + i, some), other = load_some(head + half + i, some);
      const Floats cosine = load_some(cosines + i, some), sine = load_some(sines + i, some);
      const Floats first = real * cosine - other * sine, second = other * cosine + real * sine;
      memcpy(head + i, &first, 4 * some);
      memcpy(head + half + i, &second, 4 * some);
    });
  }
}

// The largest of each stretch first: places that were carried along would be twice the work.
Largest largest(const float* x, int64_t count) {
  constexpr int64_t kStretch = 1024;
  Ints finite = Ints{} - 1;
  float most = -__builtin_inff();
  int64_t at = 0;
  for (int64_t from = 0; from < count; from += kStretch) {
    Top top;
    for_vectors(count - from < kStretch ? count - from : kStretch, [&](int64_t i, int some) {
      const Floats own = load_some(x + from + i, some);
      finite &= own - own == 0.0f;
      top.add(own, some);
    });
    if (top.value() > most) {
      most = top.value();
      at = from;
    }
  }
  bool all_finite = true;
  for (int lane = 0; lane < kLanes; ++lane) all_finite &= finite[lane] != 0;
  while (at < count - 1 && x[at] != most) ++at;
  return {at, all_finite};
}

float exponentials(float* x, int64_t count, float from) {
  Floats total = {};
  for_vectors(count, [&](int64_t i, int some) {
    Floats y = exponential(load_some(x + i, some) - from);
    for (int lane = some; lane < kLanes; ++lane) y[lane] = 0;
    memcpy(x + i, &y, 4 * some);
    total += y;
  });
  return sum(total);
}

// Some vectors of the sum stay in registers while rows pass.
template <int Vectors>
inline void add_columns(const void* rows, bool narrow, int64_t count, int64_t width, const float* factors, float* y,
                        int64_t first) {
  Floats sums[Vectors];
  for (int v = 0; v < Vectors; ++v) sums[v] = load<Floats>(y + first + v * kLanes);
  for (int64_t r = 0; r < count; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      sums[v] += factors[r] * load_values(rows, narrow, r * width + first + v * kLanes, kLanes);
    }
  }
  for (int v = 0; v < Vectors; ++v) store(y + first + v * kLanes, sums[v]);
}

void add_rows(const void* rows, bool narrow, int64_t count, int64_t width, const float* factors, float* y) {
  int64_t i = 0;
  for (; i + 8 * kLanes <= width; i += 8 * kLanes) add_columns<8>(rows, narrow, count, width, factors, y, i);
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) add_columns<4>(rows, narrow, count, width, factors, y, i);
  for (; i + kLanes <= width; i += kLanes) add_columns<1>(rows, narrow, count, width, factors, y, i);
  for (; i < width; ++i) {
    for (int64_t r = 0; r < count; ++r) {
      const int64_t at = r * width + i;
      y[i] += factors[r] * (narrow ? as_float((uint32_t)static_cast<const uint16_t*>(rows)[at] << 16)
                                   : static_cast<const float*>(rows)[at]);
    }
  }
}

float dot(const float* x, const float* y, int64_t count) {
  Floats total = {};
  for_vectors(count, [&](int64_t i, int some) { total += load_some(x + i, some) * load_some(y + i, some); });
  return sum(total);
}

void widen(const uint16_t* from, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = as_float((uint32_t)from[i] << 16);
}

}  // namespace
}  // namespace lynx

#if LYNX_TILES
#include "tiled.h"
#endif

namespace lynx {
namespace {

template <class Type>
constexpr Products products() {
  return {packed_bytes<Type>, pack<Type>, multiply<Type>, nullptr, nullptr, nullptr};
}

#if LYNX_TILES
template <>
constexpr Products products<Bfloat16>() {
  return {packed_bytes<Bfloat16>, pack<Bfloat16>, multiply<Bfloat16>, tiled_row_bytes, pack_tiled, multiply_tiled};
}
#endif

constexpr const char* kName =
#define LYNX_TEXT(name) #name
#define LYNX_TEXT_OF(name) LYNX_TEXT(name)
    LYNX_TEXT_OF(LYNX_SET);

}  // namespace

extern const InstructionSet LYNX_SET;
const InstructionSet LYNX_SET = {
    kName,        {products<Bfloat16>(), products<Float32>(), products<Int8>()},
    swiglu,       add_scaled,
    finish,       scale,
    scale_each,   turn,
    exponentials, add_rows,
    largest,      dot,
    widen,        narrow,
};

}  // namespace lynx
