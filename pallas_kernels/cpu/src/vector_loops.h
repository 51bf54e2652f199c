// The loops over vectors of float32 beside the products: activations, norms, rotations, softmax and sums of rows. Each
// implements the member of InstructionSet (products.h) of its name.
#pragma once

#include "products.h"
#include "vectors.h"

namespace lynx {
namespace {

// e^x with a relative error of at most 2e-7, for x clamped to [-87, 88]. With x = n ln 2 + r, it is 2^n times a
// polynomial in r, whose coefficients are those of Cephes' expf.
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

// Loads `some` values from place `at` on, of bfloat16 where `narrow` is true and of float32 otherwise.
inline Floats load_values(const void* from, bool narrow, int64_t at, int some) {
  if (!narrow) return load_some(static_cast<const float*>(from) + at, some);
  Halves halves = {};
  memcpy(&halves, static_cast<const uint16_t*>(from) + at, 2 * some);
  return (Floats)(__builtin_convertvector(halves, Bits) << 16);
}

void finish(const float* sums, const void* bias, const void* residual, bool narrow, int64_t count, void* y,
            bool y_narrow) {
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

// The largest value of some vectors, NaN left out. The lanes from `some` on of the last vector do not count.
class Maximum {
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
  Maximum top;
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

void rotate(const float* cosines, const float* sines, int64_t width, int64_t count, float* x) {
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

// Finds the stretch that holds the largest value, then its place in that stretch. To carry the place of the maximum
// along would be twice the work.
Largest largest(const float* x, int64_t count) {
  constexpr int64_t kStretch = 1024;
  Ints finite = Ints{} - 1;
  float most = -__builtin_inff();
  int64_t at = 0;
  for (int64_t from = 0; from < count; from += kStretch) {
    Maximum top;
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

// The operands of add_rows, from some column and output on.
struct AddedRows {
  const void* rows;
  bool narrow;
  int64_t count, width, row_stride;
  const float* factors;
  int64_t factor_stride;
  float* y;
};

// Adds `Vectors` vectors of columns, from column `first` on, to `Outs` outputs. Their sums stay in registers while the
// rows pass, and each row is loaded once for all of them.
template <int Vectors, int Outs>
inline void add_columns(const AddedRows& op, int64_t first) {
  Floats sums[Outs][Vectors];
  for (int t = 0; t < Outs; ++t) {
    for (int v = 0; v < Vectors; ++v) sums[t][v] = load<Floats>(op.y + t * op.width + first + v * kLanes);
  }
  for (int64_t r = 0; r < op.count; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      const Floats values = load_values(op.rows, op.narrow, r * op.row_stride + first + v * kLanes, kLanes);
#pragma GCC unroll 4
      for (int t = 0; t < Outs; ++t) sums[t][v] += op.factors[t * op.factor_stride + r] * values;
    }
  }
  for (int t = 0; t < Outs; ++t) {
    for (int v = 0; v < Vectors; ++v) store(op.y + t * op.width + first + v * kLanes, sums[t][v]);
  }
}

template <int Outs>
inline void add_to_outputs(const AddedRows& op) {
  // The sums of a step fill at most half of the registers.
  constexpr int kMost = 8 / Outs;
  int64_t i = 0;
  for (; i + kMost * kLanes <= op.width; i += kMost * kLanes) add_columns<kMost, Outs>(op, i);
  for (; i + kLanes <= op.width; i += kLanes) add_columns<1, Outs>(op, i);
  for (; i < op.width; ++i) {
    for (int64_t r = 0; r < op.count; ++r) {
      const int64_t at = r * op.row_stride + i;
      const float value = op.narrow ? as_float((uint32_t)static_cast<const uint16_t*>(op.rows)[at] << 16)
                                    : static_cast<const float*>(op.rows)[at];
      for (int t = 0; t < Outs; ++t) op.y[t * op.width + i] += op.factors[t * op.factor_stride + r] * value;
    }
  }
}

void add_rows(const void* rows, bool narrow, int64_t count, int64_t width, int64_t row_stride, const float* factors,
              int64_t factor_stride, int64_t outs, float* y) {
  int64_t t = 0;
  const auto from = [&](int64_t t) {
    return AddedRows{rows, narrow, count, width, row_stride, factors + t * factor_stride, factor_stride, y + t * width};
  };
  for (; t + 2 <= outs; t += 2) add_to_outputs<2>(from(t));
  for (; t < outs; ++t) add_to_outputs<1>(from(t));
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
