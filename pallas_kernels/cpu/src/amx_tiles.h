// Intel's AMX: eight tile registers, each of up to 16 rows of 64 bytes. With LYNX_EMULATED_TILES they are emulated in
// plain C++, so that the tests of products in tiles run on any processor.
#pragma once

#include <stdint.h>
#include <string.h>

namespace lynx {
namespace {

// The shapes of all registers, in the layout that the processor reads: their rows, and the bytes of a row.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int64_t of_rows, int64_t of_bytes) {
    rows[tile] = (uint8_t)of_rows;
    row_bytes[tile] = (uint16_t)of_bytes;
  }
};
static_assert(sizeof(TileShapes) == 64);

#if defined(LYNX_EMULATED_TILES)

struct EmulatedTiles {
  TileShapes shapes;
  char bytes[8][16][64];
};
inline EmulatedTiles& tiles() {
  static thread_local EmulatedTiles all;
  return all;
}

inline void shape_tiles(const TileShapes& shapes) { tiles() = {shapes, {}}; }
inline void release_tiles() { tiles() = {}; }

template <int Tile>
inline void zero_tile() {
  memset(tiles().bytes[Tile], 0, sizeof(tiles().bytes[Tile]));
}

template <int Tile>
inline void load_tile(const void* from, int64_t stride) {
  zero_tile<Tile>();
  for (int row = 0; row < tiles().shapes.rows[Tile]; ++row) {
    memcpy(tiles().bytes[Tile][row], static_cast<const char*>(from) + row * stride, tiles().shapes.row_bytes[Tile]);
  }
}

template <int Tile>
inline void store_tile(void* to, int64_t stride) {
  for (int row = 0; row < tiles().shapes.rows[Tile]; ++row) {
    memcpy(static_cast<char*>(to) + row * stride, tiles().bytes[Tile][row], tiles().shapes.row_bytes[Tile]);
  }
}

// Sum[m][n] += Left[m][2 k] * Right[k][2 n] + Left[m][2 k + 1] * Right[k][2 n + 1]
template <int Sum, int Left, int Right>
inline void add_tile_product() {
  EmulatedTiles& all = tiles();
  const auto number = [](const char* from) {
    uint16_t half;
    memcpy(&half, from, 2);
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
  };
  for (int m = 0; m < all.shapes.rows[Sum]; ++m) {
    for (int k = 0; k < all.shapes.row_bytes[Left] / 4; ++k) {
      for (int n = 0; n < all.shapes.row_bytes[Sum] / 4; ++n) {
        float sum;
        memcpy(&sum, all.bytes[Sum][m] + 4 * n, 4);
        for (int i = 0; i < 4; i += 2) {
          sum += number(all.bytes[Left][m] + 4 * k + i) * number(all.bytes[Right][k] + 4 * n + i);
        }
        memcpy(all.bytes[Sum][m] + 4 * n, &sum, 4);
      }
    }
  }
}

#else

// Assembly, because the compiler's intrinsics take register numbers as literals only.
inline void shape_tiles(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
inline void release_tiles() { asm volatile("tilerelease"); }

template <int Tile>
inline void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
}

template <int Tile>
inline void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(Tile), "r"(from), "r"(stride) : "memory");
}

template <int Tile>
inline void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(Tile), "r"(to), "r"(stride) : "memory");
}

template <int Sum, int Left, int Right>
inline void add_tile_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(Left), "i"(Right));
}

#endif

}  // namespace
}  // namespace lynx
