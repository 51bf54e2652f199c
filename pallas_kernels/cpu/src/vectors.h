// Vectors of float32 in the registers of one instruction set, and the operations on them that differ between sets.
//
// products.cc is compiled once for each instruction set, with the headers that only it includes. LYNX_SET is the name
// of the set, and LYNX_LANES is the number of float32 values in one of its registers. This code calls no function of
// the C++ standard library: the linker keeps one copy of an inline function for the whole program, and a copy that was
// compiled here would need this set's instructions.
#pragma once

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
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
typedef int16_t Shorts __attribute__((vector_size(2 * kLanes)));

// Whether the processor has 32 vector registers. Otherwise it has 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif

// unrolled<Count>(body) runs body(0), body(1), ... body(Count - 1). Each call is a copy of the body in which the index
// is a constant, so that small arrays become registers.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
// Compiling the copies takes minutes with a sanitizer, so these builds have loops instead.
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

// An int that is part of a type, so that a lambda can use it as a template argument.
template <int I>
struct Constant {
  static constexpr int value = I;
};

// Runs body(Constant<value>()), for a value in [1, Most].
template <int Most, class Body>
LYNX_INLINE inline void with_constant(int value, const Body& body) {
  if (value == Most) return body(Constant<Most>());
  if constexpr (Most > 1) with_constant<Most - 1>(value, body);
}

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

inline Floats as_floats(Floats vector) { return vector; }
inline Floats as_floats(Ints vector) { return __builtin_convertvector(vector, Floats); }

// Runs body(i, some) for each vector of `count` values: it begins at value i and holds `some` of them, kLanes in all
// vectors but perhaps the last.
template <class Body>
inline void for_vectors(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, (int)kLanes);
  if (i < count) body(i, (int)(count - i));
}

// Loads `count` values, at most kLanes, and fills the vector up with zeros.
inline Floats load_some(const float* from, int count) {
  if (count == kLanes) return load<Floats>(from);
  Floats vector = {};
  memcpy(&vector, from, 4 * count);
  return vector;
}

// bfloat16 is the upper half of a float32. Rounding is to the nearest, ties to even; NaN stays NaN.
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
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store(out + i, __builtin_convertvector(round_to_bfloat16(load<Floats>(x + i)), Halves));
  }
  for (; i < count; ++i) out[i] = round_to_bfloat16(x[i]);
}

// The sum of a vector's lanes. The upper half is added to the lower half until one lane is left, so the order of the
// additions is always the same.
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

struct FourSums {
  float of[4];
};

// `sum` of each of four vectors, in little more time than one `sum` takes.
LYNX_INLINE inline FourSums sums_of(Floats a, Floats b, Floats c, Floats d) {
  FourSums four;
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

// With AVX2, the sums, weights and rows of a full tile take all 16 registers. Such a tile (`Full`) executes its
// instructions in the order written here, as assembly. GCC would move the loads together and spill sums to memory.
#if defined(__AVX2__) && !defined(__AVX512F__)
#define LYNX_ORDERED_TILES 1
#else
#define LYNX_ORDERED_TILES 0
#endif

template <bool Full, class Vector>
LYNX_INLINE inline Vector load_in_order(const void* from) {
#if LYNX_ORDERED_TILES
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
#if LYNX_ORDERED_TILES
  if constexpr (Full) {
    asm volatile("vfmadd231ps %1, %2, %0" : "+x"(sum) : "x"(x), "x"(y));
    return sum;
  }
#endif
  return sum + x * y;
}

}  // namespace
}  // namespace lynx
