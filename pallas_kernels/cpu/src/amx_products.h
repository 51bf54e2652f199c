// Products of bfloat16 weights in AMX tiles: 16 outputs are multiplied by up to 16 rows at once. Weights are read where
// they lie in memory.
#pragma once

#include "amx_tiles.h"
#include "products.h"
#include "vectors.h"

namespace lynx {
namespace {

// The left tile of a product holds rows of the weight. The right tile holds pairs of inputs of several packed rows,
// side by side. So a group of packed rows has the layout [inputs / 2][width][2], with zeros after its last inputs. Up
// to 16 rows are one group, as wide as there are rows. More rows are consecutive groups of 16, the last one filled up
// with rows of zeros.
constexpr int64_t kTileOuts = 16, kTileInner = 32, kTileBytes = 64;

int64_t tiled_row_bytes(int64_t inner) { return (inner + kTileInner - 1) / kTileInner * kTileBytes; }

void pack_tiled(const float* from, int64_t stride, int64_t count, int64_t inner, int64_t place, int64_t rows,
                void* tiled) {
  const int64_t width = tile_width(rows), first = place / kTileRows * kTileRows;
  // The rows of zeros that fill up the last group are written together with its last row.
  const int64_t zeros = place + count < rows ? 0 : tile_room(rows) - rows;
  char* to = static_cast<char*>(tiled) + first * tiled_row_bytes(inner) + 4 * (place - first);
  for (int64_t i = 0; i < inner; i += kTileInner) {
    const int64_t some = inner - i < kTileInner ? inner - i : kTileInner;
    uint16_t narrowed[kTileRows][kTileInner];
    if (some < kTileInner) memset(narrowed, 0, sizeof(narrowed));
    for (int64_t row = 0; row < count; ++row) narrow(from + row * stride + i, some, narrowed[row]);
    for (int64_t pair = 0; pair < kTileInner / 2; ++pair) {
      char* cells = to + (i / 2 + pair) * 4 * width;
      for (int64_t row = 0; row < count; ++row) memcpy(cells + 4 * row, narrowed[row] + 2 * pair, 4);
      if (zeros > 0) memset(cells + 4 * count, 0, 4 * zeros);
    }
  }
}

// The first register of each use: the sums of two tiles of weights by two groups of rows, two tiles of weights, and two
// groups of rows.
constexpr int kSums = 0, kWeights = 4, kRows = 6;

// Sets the shapes of all registers for `outs` outputs and `groups` groups of `width` rows.
inline void shape(int64_t outs, int64_t groups, int64_t width) {
  TileShapes shapes;
  for (int tile = 0; tile * kTileOuts < outs; ++tile) {
    const int64_t left = outs - tile * kTileOuts, some = left < kTileOuts ? left : kTileOuts;
    shapes.set(kWeights + tile, some, kTileBytes);
    for (int group = 0; group < groups; ++group) shapes.set(kSums + 2 * tile + group, some, 4 * width);
  }
  for (int group = 0; group < groups; ++group) shapes.set(kRows + group, kTileInner / 2, 4 * width);
  shape_tiles(shapes);
}

// Writes the sums of one tile, whose layout is [outs][width], to y[t * stride + o].
template <int Tile>
inline void write_sums(int64_t outs, int64_t rows, int64_t width, float* y, int64_t stride) {
  float sums[kTileOuts * kTileRows];
  store_tile<Tile>(sums, 4 * width);
#if defined(__AVX512F__)
  if (outs == kTileOuts) {
    const __m512i places = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                              _mm512_set1_epi32((int)width));
    for (int64_t t = 0; t < rows; ++t) _mm512_storeu_ps(y + t * stride, _mm512_i32gather_ps(places, sums + t, 4));
    return;
  }
#endif
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t o = 0; o < outs; ++o) y[t * stride + o] = sums[o * width + t];
  }
}

// Runs body(Constant<0>()), ... body(Constant<Count - 1>()).
template <int Count, class Body>
LYNX_INLINE inline void for_constants(const Body& body) {
  if constexpr (Count > 1) for_constants<Count - 1>(body);
  body(Constant<Count - 1>());
}

// The memory to prefetch while products are computed: `lines` cache lines in each step.
struct Prefetch {
  const char *next, *end;
  int64_t lines;

  void step() {
    constexpr int kSecondLevel = 2;
    for (int64_t line = 0; line < lines && next < end; ++line, next += kTileBytes) {
      __builtin_prefetch(next, 0, kSecondLevel);
    }
  }
};

// The operands of one pass over the inputs.
struct TiledBlock {
  const char* weight;
  int64_t outs, inner;
  const char* groups;
  int64_t width, rows;
  float* y;
  int64_t y_stride;
};

// Products of `Tiles` tiles of outputs, of which the last may be smaller, with `Groups` groups of rows.
template <int Tiles, int Groups>
inline void multiply_block(const TiledBlock& block, Prefetch& prefetch) {
  const int64_t row_bytes = 2 * block.inner, steps = block.inner / kTileInner;
  const int64_t width = block.width, group_bytes = kTileRows * tiled_row_bytes(block.inner);
  const auto add = [&](const char* weight, int64_t stride, int64_t step) LYNX_INLINE {
    for_constants<Groups>([&](auto group) LYNX_INLINE {
      constexpr int kGroup = decltype(group)::value;
      load_tile<kRows + kGroup>(block.groups + kGroup * group_bytes + step * width * kTileBytes, 4 * width);
    });
    for_constants<Tiles>([&](auto tile) LYNX_INLINE {
      constexpr int kTile = decltype(tile)::value;
      load_tile<kWeights + kTile>(weight + kTile * kTileOuts * stride, stride);
      for_constants<Groups>([&](auto group) LYNX_INLINE {
        constexpr int kGroup = decltype(group)::value;
        add_tile_product<kSums + 2 * kTile + kGroup, kWeights + kTile, kRows + kGroup>();
      });
    });
  };
  const auto each_sum = [](const auto& body) LYNX_INLINE {
    for_constants<Tiles>(
        [&](auto tile) LYNX_INLINE { for_constants<Groups>([&](auto group) LYNX_INLINE { body(tile, group); }); });
  };
  each_sum([](auto tile, auto group)
               LYNX_INLINE { zero_tile<kSums + 2 * decltype(tile)::value + decltype(group)::value>(); });
  for (int64_t step = 0; step < steps; ++step) {
    prefetch.step();
    add(block.weight + step * kTileBytes, row_bytes, step);
  }
  if (const int64_t rest = block.inner % kTileInner) {
    char last[Tiles * kTileOuts * kTileBytes] = {};
    for (int64_t o = 0; o < block.outs; ++o) {
      memcpy(last + o * kTileBytes, block.weight + o * row_bytes + steps * kTileBytes, 2 * rest);
    }
    add(last, kTileBytes, steps);
  }
  each_sum([&](auto tile, auto group) LYNX_INLINE {
    constexpr int kTile = decltype(tile)::value, kGroup = decltype(group)::value;
    const int64_t outs = block.outs - kTile * kTileOuts, rows = block.rows - kGroup * kTileRows;
    write_sums<kSums + 2 * kTile + kGroup>(outs < kTileOuts ? outs : kTileOuts, rows < kTileRows ? rows : kTileRows,
                                           width, block.y + kGroup * kTileRows * block.y_stride + kTile * kTileOuts,
                                           block.y_stride);
  });
}

inline void multiply_block(const TiledBlock& block, Prefetch& prefetch) {
  const bool tiles = block.outs > kTileOuts, groups = block.rows > kTileRows;
  if (tiles && groups) multiply_block<2, 2>(block, prefetch);
  else if (tiles) multiply_block<2, 1>(block, prefetch);
  else if (groups) multiply_block<1, 2>(block, prefetch);
  else multiply_block<1, 1>(block, prefetch);
}

void multiply_tiled(const void* weight, int64_t outs, const void* tiled, int64_t width, int64_t rows, int64_t inner,
                    float* y, int64_t y_stride, const void* following) {
  // With a single group of rows, memory is the limit. Then outputs are taken one tile at a time, because prefetches
  // work best in small steps.
  const int64_t most_groups = rows > kTileRows ? 2 : 1, most_outs = most_groups * kTileOuts;
  const int64_t most_rows = most_groups * kTileRows, passes = (rows + most_rows - 1) / most_rows;
  const int64_t row_bytes = 2 * inner;
  for (int64_t o = 0, shaped = 0; o < outs; o += most_outs) {
    const int64_t some = outs - o < most_outs ? outs - o : most_outs;
    if (some != shaped) shape(shaped = some, most_groups, width);
    const char* here = static_cast<const char*>(weight) + o * row_bytes;
    const char* next =
        o + most_outs < outs || following == nullptr ? here + some * row_bytes : static_cast<const char*>(following);
    Prefetch prefetch{next, next + some * row_bytes, (some + passes - 1) / passes};
    for (int64_t t = 0; t < rows; t += most_rows) {
      const int64_t part = rows - t < most_rows ? rows - t : most_rows;
      const char* groups = static_cast<const char*>(tiled) + t * tiled_row_bytes(inner);
      multiply_block({here, some, inner, groups, width, part, y + t * y_stride + o, y_stride}, prefetch);
    }
  }
  release_tiles();
}

}  // namespace
}  // namespace lynx
