// Products of few rows with a weight stored [out, in]: the inner loops, one set an instruction set.
#pragma once

#include <cstdint>

namespace lynx {

enum class WeightType { kBfloat16, kFloat32, kInt8 };
constexpr int kWeightTypes = 3;

// Rows of a tile; how wide one is where there are only so many rows; rows that so many take, packed as tiles.
constexpr int64_t kTileRows = 16;
constexpr int64_t tile_width(int64_t rows) { return rows < kTileRows ? rows : kTileRows; }
constexpr int64_t tile_room(int64_t rows) {
  return rows <= kTileRows ? rows : (rows + kTileRows - 1) / kTileRows * kTileRows;
}

struct Activation {
  float alpha, limit, shift;
};

// One instruction set's loops over one type of weight. Rows are packed first: copied into the form and the precision
// that the weight's products take, which is bfloat16, float32, or 16-bit integers under one scale a row.
struct Products {
  // Bytes of a packed row, a multiple of 64.
  int64_t (*packed_bytes)(int64_t inner);
  void (*pack)(const float* row, int64_t inner, void* packed);
  // y[t * y_stride + o] = sum over i of weight[o * inner + i] * row[t][i], times scales[o] where weights are int8, for
  // o in [0, outs) and t in [0, rows); summed in float32 (exactly, for int8) in an order that depends on `inner` alone.
  // Fetches the start of `following`, which the same thread reads next, on the way; it may be null.
  void (*multiply)(const void* weight, int64_t outs, const float* scales, const void* const* packed, int64_t rows,
                   int64_t inner, float* y, int64_t y_stride, const void* following);
  // The same of rows that are packed together, for products of whole tiles; null where an instruction set has none of
  // this type. pack_tiled puts `count` rows, `stride` numbers apart, at `place`, inside one tile, of `rows` that take
  // tile_room(rows) * tiled_row_bytes(inner) bytes; multiply_tiled takes them, tile_width of all of them wide, or some
  // of them from a multiple of kTileRows on.
  int64_t (*tiled_row_bytes)(int64_t inner);
  void (*pack_tiled)(const float* from, int64_t stride, int64_t count, int64_t inner, int64_t place, int64_t rows,
                     void* tiled);
  void (*multiply_tiled)(const void* weight, int64_t outs, const void* tiled, int64_t width, int64_t rows,
                         int64_t inner, float* y, int64_t y_stride, const void* following);
};

struct Largest {
  int64_t place;
  bool finite;
};

struct InstructionSet {
  const char* name;
  Products products[kWeightTypes];
  // out = gate * sigmoid(alpha * gate) * (up + shift), gate bounded above by `limit` and up on both sides.
  void (*swiglu)(const float* gate, const float* up, int64_t count, Activation activation, float* out);
  // y[o] += factor * x[o]
  void (*add_scaled)(float factor, const float* x, int64_t count, float* y);
  // y = sums + bias + residual, either of which may be null; in float32, or in bfloat16 where narrow.
  void (*finish)(const float* sums, const void* bias, const void* residual, bool narrow, int64_t count, void* y,
                 bool y_narrow);
  // x *= factor; returns the largest of them that is a number.
  float (*scale)(float factor, int64_t count, float* x);
  // x[i] = x[i] * factor * scales[i]
  void (*scale_each)(float factor, const float* scales, int64_t count, float* x);
  // Turns `count` numbers of heads, `width` numbers each: pairs (x[i], x[i + width / 2]) of a head, as complex numbers,
  // times (cosines[i], sines[i]).
  void (*turn)(const float* cosines, const float* sines, int64_t width, int64_t count, float* x);
  // Replaces each x by e to the (x - from), and returns their sum.
  float (*exponentials)(float* x, int64_t count, float from);
  // y[i] += sum over r of factors[r] * rows[r * width + i], rows in bfloat16 or in float32.
  void (*add_rows)(const void* rows, bool narrow, int64_t count, int64_t width, const float* factors, float* y);
  // The lowest place of the largest, any where some are NaN; and whether all are finite.
  Largest (*largest)(const float* x, int64_t count);
  float (*dot)(const float* x, const float* y, int64_t count);
  void (*widen)(const uint16_t* bfloat16, int64_t count, float* out);
  // Rounds to nearest, ties to even; NaN stays NaN.
  void (*narrow)(const float* x, int64_t count, uint16_t* bfloat16);
};

constexpr int64_t weight_bytes(WeightType type) {
  return type == WeightType::kBfloat16 ? 2 : type == WeightType::kFloat32 ? 4 : 1;
}

// The instruction sets that were built and that this processor has, the best first; null past the last.
const InstructionSet* instruction_set(int index);

}  // namespace lynx
