// The inner loops of all operations: products of a few rows with a weight stored [out, in], and loops over vectors.
// Each instruction set has a table of them, made by products.cc.
#pragma once

#include <cstdint>

namespace lynx {

enum class WeightType { kBfloat16, kFloat32, kInt8, kInt4 };
constexpr int kWeightTypes = 4;

// The scales of a weight, from some output on. An int8 weight has one float32 for each output. An int4 weight has one
// for each group of `blocks` blocks of 32 inputs, in 16 bits: float16 if `half` is true, otherwise bfloat16. Those are
// laid out as in group_products.h. Other weights have none.
struct Scales {
  const void* data = nullptr;
  bool half = false;
  int64_t blocks = 1;
};

// Packed rows of Intel's AMX: the most rows of one tile, the width of a tile of `rows` rows, and the rows of memory
// that `rows` rows take as whole tiles.
constexpr int64_t kTileRows = 16;
constexpr int64_t tile_width(int64_t rows) { return rows < kTileRows ? rows : kTileRows; }
constexpr int64_t tile_room(int64_t rows) {
  return rows <= kTileRows ? rows : (rows + kTileRows - 1) / kTileRows * kTileRows;
}

// A gated activation: gate * sigmoid(alpha * gate) * (up + shift). `limit` bounds gate from above, and up from above
// and below.
struct Activation {
  float alpha, limit, shift;
};

// The products of one instruction set with one type of weight. Rows are packed first: copied into the layout and the
// precision that the products take. That is bfloat16, float32, 16-bit integers with one scale for each row, or 8-bit
// integers with one for every 32 inputs.
struct Products {
  // `outs` of a call is a multiple of this, but for the last outputs of a matrix.
  int64_t outs_multiple;
  // Bytes of a packed row, a multiple of 64.
  int64_t (*packed_bytes)(int64_t inner);
  void (*pack)(const float* row, int64_t inner, void* packed);
  // y[t * y_stride + o] = sum over i of weight[o * inner + i] * row[t][i], for o in [0, outs) and t in [0, rows).
  // Products with an int8 or int4 weight are multiplied by its scales. Sums are in float32, or exact for int8, or exact
  // within 32 inputs for int4. Their order depends only on `inner`. Prefetches `following`, the weights that this
  // thread reads next (may be null).
  void (*multiply)(const void* weight, int64_t outs, const Scales& scales, const void* const* packed, int64_t rows,
                   int64_t inner, float* y, int64_t y_stride, const void* following);
  // The same in AMX tiles, whose rows are packed together. These are null where the set has no tiles for this type.
  int64_t (*tiled_row_bytes)(int64_t inner);
  // Packs `count` rows, which lie `stride` values apart, as rows [place, place + count) of `rows` rows in all. Those
  // take tile_room(rows) * tiled_row_bytes(inner) bytes at `tiled`. The rows of one call belong to one tile.
  void (*pack_tiled)(const float* from, int64_t stride, int64_t count, int64_t inner, int64_t place, int64_t rows,
                     void* tiled);
  // `tiled` points to the first of the rows to multiply, at a multiple of kTileRows. `width` is the tile_width of all
  // rows that were packed together.
  void (*multiply_tiled)(const void* weight, int64_t outs, const void* tiled, int64_t width, int64_t rows,
                         int64_t inner, float* y, int64_t y_stride, const void* following);
};

// Queries that attend together, at most: each is a lane of vectors (lane_attention.h).
constexpr int64_t kMostLanes = 64;

// The attention of some queries to the positions of their sequence, block by block, with running maxima and totals.
// Arrays [.., lanes] have a number for each query.
struct LaneAttention {
  int64_t lanes;  // queries, rounded up to whole vectors
  int64_t width, value_width;
  int64_t value_stride;  // numbers from one position's values to the next one's; keys lie `width` apart
  bool narrow;           // queries, keys and values are bfloat16; otherwise float32
  float scale;
  const int32_t *first, *last;  // the positions that each query sees
  float* queries;               // [width, lanes]
  float* sums;                  // [value_width, lanes], of shares times values
  float *tops, *totals;         // [lanes], the largest score and the sum of shares
  float* scores;                // [32, lanes]
  float* widened;               // 32 keys or values
};

struct Largest {
  int64_t place;
  bool finite;
};

// One instruction set's loops.
struct InstructionSet {
  const char* name;
  int64_t lanes;  // float32 values of a vector
  Products products[kWeightTypes];
  // out = activation(gate, up)
  void (*swiglu)(const float* gate, const float* up, int64_t count, Activation activation, float* out);
  // y[i] += factor * x[i]
  void (*add_scaled)(float factor, const float* x, int64_t count, float* y);
  // y = sums + bias + residual. Bias and residual may be null. They are bfloat16 where `narrow` is true and float32
  // otherwise, as y is by `y_narrow`.
  void (*finish)(const float* sums, const void* bias, const void* residual, bool narrow, int64_t count, void* y,
                 bool y_narrow);
  // x[i] *= factor. Returns the largest product that is not NaN.
  float (*scale)(float factor, int64_t count, float* x);
  // x[i] = x[i] * factor * scales[i]
  void (*scale_each)(float factor, const float* scales, int64_t count, float* x);
  // Applies rotary embeddings to `count` values, heads of `width` values each. In each head the pair (x[i], x[i + width
  // / 2]), as a complex number, is multiplied by (cosines[i], sines[i]).
  void (*rotate)(const float* cosines, const float* sines, int64_t width, int64_t count, float* x);
  // x[i] = e^(x[i] - from). Returns the sum of the results.
  float (*exponentials)(float* x, int64_t count, float from);
  // y[t * width + i] += sum over r of factors[t * factor_stride + r] * rows[r * row_stride + i], for t in [0, outs) and
  // r in [0, count). Sums are in the order of r, whatever the calls they are divided into. The rows are bfloat16 where
  // `narrow` is true and float32 otherwise.
  void (*add_rows)(const void* rows, bool narrow, int64_t count, int64_t width, int64_t row_stride,
                   const float* factors, int64_t factor_stride, int64_t outs, float* y);
  // Packs `count` queries, one for each lane, before the first `attend_lanes`.
  void (*begin_lanes)(const LaneAttention& op, const void* const* queries, int64_t count);
  // Attends to positions [at, at + count) of the sequence, 32 or fewer. `masked`: some lane does not see all of them.
  void (*attend_lanes)(const LaneAttention& op, const void* keys, const void* values, int64_t at, int64_t count,
                       bool masked);
  // Writes the results [count, value_width]. `sinks` [lanes] may be null.
  void (*finish_lanes)(const LaneAttention& op, const float* sinks, int64_t count, float* mixed);
  // The lowest place of the largest value, or any place if some values are NaN. And whether all values are finite.
  Largest (*largest)(const float* x, int64_t count);
  float (*dot)(const float* x, const float* y, int64_t count);
  void (*widen)(const uint16_t* bfloat16, int64_t count, float* out);
  // Rounds to the nearest bfloat16, ties to even. NaN stays NaN.
  void (*narrow)(const float* x, int64_t count, uint16_t* bfloat16);
  // Quantises `groups` groups of weights, each `group` numbers, to four bits: numbers from 0 to 15, of which 8 means 0,
  // and bfloat16 scales. `ends` are where the search for a scale sends a group's largest magnitude.
  void (*search_groups)(const float* x, int64_t groups, int64_t group, const float* ends, int64_t count,
                        uint8_t* numbers, uint16_t* scales);
};

// The instruction set at `index` among those that were built and that this processor has, the fastest first. Null after
// the last one.
const InstructionSet* instruction_set(int index);

}  // namespace lynx
