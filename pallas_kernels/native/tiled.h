// Products of bfloat16 weights in tile registers: 16 outputs meet up to 16 rows at once, weights where they lie in memory.
// Part of products.cc.
#pragma once

#include "tiles.h"

namespace lynx {
namespace {

// A weight's rows are those of a left tile. A right tile holds pairs of inputs of some rows, side by side: a group of rows is
// packed as [inputs / 2][width][2], its last inputs filled up with zeros, and groups follow each other. Up to 16 rows are one
// group as wide as they are; more are groups of 16, the last one filled up with rows of zeros.
constexpr int64_t kTileOuts = 16, kTileInner = 32, kTileBytes = 64;

int64_t tiled_row_bytes(int64_t inner) { return (inner + kTileInner - 1) / kTileInner * kTileBytes; }

void pack_tiled(const float* row, int64_t inner, int64_t place, int64_t rows, void* tiled) {
  const int64_t width = tile_width(rows), first = place / kTileRows * kTileRows;
  // The last row comes with those that fill up its group.
  const int64_t zeros = place + 1 < rows ? 0 : tile_room(rows) - rows;
  char* to = static_cast<char*>(tiled) + first * tiled_row_bytes(inner) + 4 * (place - first);
  for (int64_t i = 0; i < inner; i += kTileInner) {
    uint16_t some[kTileInner] = {};
    narrow(row + i, inner - i < kTileInner ? inner - i : kTileInner, some);
    for (int64_t pair = 0; pair < kTileInner / 2; ++pair) {
      char* cell = to + (i / 2 + pair) * 4 * width;
      memcpy(cell, some + 2 * pair, 4);
      if (zeros > 0) memset(cell + 4, 0, 4 * zeros);
    }
  }
}

// Registers: up to four tiles of sums, of weights (the last one of a block may have fewer outputs), and of two groups of rows.
constexpr int kSums = 0, kMostSums = 4, kWeights = 4, kLastWeights = 5, kRows = 6;

// For `tiles` tiles of outputs, `outs` in all, that meet `groups` groups of rows.
inline void shape(int64_t tiles, int64_t outs, int64_t groups, int64_t width) {
  TileShapes shapes;
  const int64_t last = outs - (tiles - 1) * kTileOuts;
  shapes.set(kWeights, kTileOuts, kTileBytes);
  shapes.set(kLastWeights, last, kTileBytes);
  for (int64_t sum = 0; sum < tiles * groups; ++sum) {
    shapes.set((int)(kSums + sum), sum / groups + 1 < tiles ? kTileOuts : last, 4 * width);
  }
  for (int group = 0; group < 2; ++group) shapes.set(kRows + group, kTileInner / 2, 4 * width);
  shape_tiles(shapes);
}

// y[t * stride + o] of one tile's sums, which lie [outs][width].
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

template <int I>
struct Number {
  static constexpr int value = I;
};

// body(Number<0>), ... body(Number<Count - 1>)
template <int Count, class Body>
LYNX_INLINE inline void numbered(const Body& body) {
  if constexpr (Count > 1) numbered<Count - 1>(body);
  body(Number<Count - 1>());
}

// Memory to ask for while products are computed, some lines a step.
struct Ask {
  const char *next, *end;
  int64_t lines;

  void some() {
    constexpr int kSecondLevel = 2;
    for (int64_t line = 0; line < lines && next < end; ++line, next += kTileBytes) __builtin_prefetch(next, 0, kSecondLevel);
  }
};

struct TiledBlock {
  const char* weight;
  int64_t outs, inner;
  const char* groups;
  int64_t width, rows;
  float* y;
  int64_t y_stride;
};

// `Tiles` tiles of outputs, the last of which may be smaller, meet `Groups` groups of rows.
template <int Tiles, int Groups>
inline void multiply_block(const TiledBlock& block, Ask& ask) {
  const int64_t row_bytes = 2 * block.inner, steps = block.inner / kTileInner;
  const int64_t width = block.width, group_bytes = kTileRows * tiled_row_bytes(block.inner);
  const auto add = [&](const char* weight, int64_t stride, int64_t step) LYNX_INLINE {
    numbered<Groups>([&](auto group) LYNX_INLINE {
      constexpr int kGroup = decltype(group)::value;
      load_tile<kRows + kGroup>(block.groups + kGroup * group_bytes + step * width * kTileBytes, 4 * width);
    });
    numbered<Tiles>([&](auto tile) LYNX_INLINE {
      constexpr int kTile = decltype(tile)::value, kHeld = kTile + 1 < Tiles ? kWeights : kLastWeights;
      load_tile<kHeld>(weight + kTile * kTileOuts * stride, stride);
      numbered<Groups>([&](auto group) LYNX_INLINE {
        constexpr int kGroup = decltype(group)::value;
        add_tile_product<kSums + Groups * kTile + kGroup, kHeld, kRows + kGroup>();
      });
    });
  };
  const auto each_sum = [](const auto& body) LYNX_INLINE {
    numbered<Tiles>([&](auto tile) LYNX_INLINE {
      numbered<Groups>([&](auto group) LYNX_INLINE { body(tile, group); });
    });
  };
  each_sum([](auto tile, auto group) LYNX_INLINE {
    zero_tile<kSums + Groups * decltype(tile)::value + decltype(group)::value>();
  });
  for (int64_t step = 0; step < steps; ++step) {
    ask.some();
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
    write_sums<kSums + Groups * kTile + kGroup>(outs < kTileOuts ? outs : kTileOuts, rows < kTileRows ? rows : kTileRows, width,
                                           block.y + kGroup * kTileRows * block.y_stride + kTile * kTileOuts,
                                           block.y_stride);
  });
}

inline void multiply_block(int64_t tiles, int64_t groups, const TiledBlock& block, Ask& ask) {
  switch (groups * kMostSums + tiles) {
    case kMostSums + 1: return multiply_block<1, 1>(block, ask);
    case kMostSums + 2: return multiply_block<2, 1>(block, ask);
    case kMostSums + 3: return multiply_block<3, 1>(block, ask);
    case kMostSums + 4: return multiply_block<4, 1>(block, ask);
    case 2 * kMostSums + 1: return multiply_block<1, 2>(block, ask);
    case 2 * kMostSums + 2: return multiply_block<2, 2>(block, ask);
  }
}

void multiply_tiled(const void* weight, int64_t outs, const void* tiled, int64_t width, int64_t rows, int64_t inner,
                    float* y, int64_t y_stride, const void* following) {
  const int64_t most_groups = rows > kTileRows ? 2 : 1, most_outs = kMostSums / most_groups * kTileOuts;
  const int64_t most_rows = most_groups * kTileRows, passes = (rows + most_rows - 1) / most_rows;
  const int64_t row_bytes = 2 * inner;
  for (int64_t o = 0, shaped = 0; o < outs; o += most_outs) {
    const int64_t some = outs - o < most_outs ? outs - o : most_outs, tiles = (some + kTileOuts - 1) / kTileOuts;
    if (some != shaped) shape(tiles, shaped = some, most_groups, width);
    const char* here = static_cast<const char*>(weight) + o * row_bytes;
    const char* next = o + most_outs < outs || following == nullptr ? here + some * row_bytes
                                                                    : static_cast<const char*>(following);
    Ask ask{next, next + some * row_bytes, (some + passes - 1) / passes};
    for (int64_t t = 0; t < rows; t += most_rows) {
      const int64_t part = rows - t < most_rows ? rows - t : most_rows, groups = (part + kTileRows - 1) / kTileRows;
      // The registers of a last single group's sums have other shapes.
      if (groups < most_groups) shape(tiles, some, groups, width);
      multiply_block(tiles, groups, {here, some, inner, static_cast<const char*>(tiled) + t * tiled_row_bytes(inner), width,
                                     part, y + t * y_stride + o, y_stride}, ask);
      if (groups < most_groups) shaped = 0;
    }
  }
  release_tiles();
}

}  // namespace
}  // namespace lynx
