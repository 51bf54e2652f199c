// Products of packed rows with a weight stored [out, in], computed in tiles: the sums of a few outputs for a few rows,
// which stay in registers while the inputs pass.
//
// The loops around a tile, from the inside out:
//   row group   up to kMostRows rows that share one pass over the weights
//   panel       consecutive outputs whose weights stay in the second-level cache while many row groups pass
#pragma once

#include "prefetch.h"
#include "products.h"
#include "weight_types.h"

namespace lynx {
namespace {

// The operands of a product: y[t * y_stride + o] = sum over i of weight[o * inner + i] * row[t][i].
template <class Type>
struct Operands {
  typedef typename Type::Weight Weight;

  const Weight* weight;
  const float* scales;  // one for each output, of a weight type with scales
  const void* const* packed;
  int64_t inner;
  float* y;
  int64_t y_stride;

  LYNX_INLINE Operands from_output(int64_t o) const {
    return {weight + o * inner, scales + (Type::kHeader > 0 ? o : 0), packed, inner, y + o, y_stride};
  }
  LYNX_INLINE Operands from_row(int64_t t) const {
    return {weight, scales, packed + t, inner, y + t * y_stride, y_stride};
  }
};

// Blocks [begin, end) of the inputs. A tile that begins after block 0 continues the sums that are kept in `sums`, and a
// tile that ends before the last block keeps its sums there: `Rows` for each output.
template <class Sum>
struct Slice {
  int64_t begin, end;
  Sum* sums;
};

// The sums of Outs outputs for Rows rows, in registers.
template <class Type, int Outs, int Rows>
class Tile {
 public:
  typedef typename Type::Weight Weight;
  typedef typename Type::Sum Sum;

  LYNX_INLINE explicit Tile(const Operands<Type>& at) : at_(at), blocks_(at.inner / Type::kBlock) {
    for (int t = 0; t < Rows; ++t) rows_[t] = static_cast<const char*>(at.packed[t]) + Type::kHeader;
  }

  LYNX_INLINE int64_t blocks() const { return blocks_; }

  LYNX_INLINE void load_sums(const Sum* sums) {
    each_sum([&](int o, int t) LYNX_INLINE { sums_[o][t] = sums[o * Rows + t]; });
  }

  LYNX_INLINE void keep_sums(Sum* sums) const {
    each_sum([&](int o, int t) LYNX_INLINE { sums[o * Rows + t] = sums_[o][t]; });
  }

  // Adds blocks [block, end), and prefetches by `plan`.
  template <bool First>
  LYNX_INLINE void add_blocks(int64_t block, int64_t end, PrefetchPlan plan) {
    int wait = plan.phase;
    for (; block + kStep <= end; block += kStep) {
      if (wait-- == 0) {
        wait = plan.between;
        prefetch_ahead(plan.ahead, block);
      }
      if constexpr (First && kPrefetch.repeats > 0) prefetch_own(block);
      unrolled<kStep>([&](int i) LYNX_INLINE { add_block(block + i); });
    }
    if constexpr (kStep > 1) {
      // GCC must not see how often this loop runs: it would unroll it, and then keep a sum of the loop above in memory.
      asm volatile("" : "+r"(block));
      for (; block < end; ++block) add_block(block);
    }
  }

  // Adds the inputs after the last whole block.
  LYNX_INLINE void add_rest() {
    const int64_t rest = at_.inner % Type::kBlock;
    if (rest == 0) return;
    unrolled<Outs>([&](int o) LYNX_INLINE {
      Weight last[Type::kBlock] = {};
      memcpy(last, at_.weight + o * at_.inner + blocks_ * Type::kBlock, rest * sizeof(Weight));
      unrolled<Type::kParts>([&](int part) LYNX_INLINE {
        const Part weights = Type::template weights<kFull>(last, part);
        unrolled<Rows>([&](int t) LYNX_INLINE { add(o, t, weights, row(t, blocks_ * Type::kPackedBlock, part)); });
      });
    });
  }

  LYNX_INLINE void write_products() const {
    unrolled<Rows>([&](int t) LYNX_INLINE {
      const auto of = [&](int o) LYNX_INLINE { return as_floats(sums_[o < Outs ? o : Outs - 1][t]); };
      FourSums products = sums_of(of(0), of(1), of(2), of(3));
      if constexpr (Type::kHeader > 0) {
        float scale;
        memcpy(&scale, at_.packed[t], 4);
        unrolled<Outs>([&](int o) LYNX_INLINE { products.of[o] *= scale * at_.scales[o]; });
      }
      memcpy(at_.y + t * at_.y_stride, products.of, 4 * Outs);
    });
  }

 private:
  typedef typename Type::Part Part;
  // Whether the tile needs all registers of a processor that has 16.
  static constexpr bool kFull = Outs * Rows > 8;
  // Blocks of one step: one cache line of each weight row, or more.
  static constexpr int kBlockBytes = Type::kBlock * (int)sizeof(Weight);
  static constexpr int kStep = kBlockBytes < 64 ? 64 / kBlockBytes : 1;
  static constexpr PrefetchSettings kPrefetch = prefetch_settings(sizeof(Weight));

  template <class Body>
  LYNX_INLINE static void each_sum(const Body& body) {
    unrolled<Outs>([&](int o) LYNX_INLINE { unrolled<Rows>([&](int t) LYNX_INLINE { body(o, t); }); });
  }

  // Requests the lines at `ahead` that correspond to those which the step at `block` reads.
  LYNX_INLINE void prefetch_ahead(const char* ahead, int64_t block) const {
    const char* line = ahead + block * Outs * kBlockBytes;
#pragma GCC unroll 8
    for (int o = 0; o < Outs; ++o) __builtin_prefetch(line + o * kStep * kBlockBytes, 0, kPrefetch.locality);
  }

  // Requests lines of this tile's own weights shortly before they are read.
  LYNX_INLINE void prefetch_own(int64_t block) const {
#pragma GCC unroll 8
    for (int o = 0; o < Outs; ++o) {
      const char* line = reinterpret_cast<const char*>(at_.weight + o * at_.inner + block * Type::kBlock);
      unrolled<kPrefetch.repeats>([&](int i)
                                      LYNX_INLINE { __builtin_prefetch(line + (PrefetchSettings::kSoon >> i)); });
    }
  }

  // Weights or rows, whichever there are fewer of, are loaded once and stay in registers.
  LYNX_INLINE void add_block(int64_t block) {
    unrolled<Type::kParts>([&](int part) LYNX_INLINE {
      const Weight* from = at_.weight + block * Type::kBlock;
      const int64_t place = block * Type::kPackedBlock;
      if constexpr (Outs >= Rows) {
        Part held[Rows];
        unrolled<Rows>([&](int t) LYNX_INLINE { held[t] = row(t, place, part); });
        unrolled<Outs>([&](int o) LYNX_INLINE {
          const Part weights = Type::template weights<kFull>(from + o * at_.inner, part);
          unrolled<Rows>([&](int t) LYNX_INLINE { add(o, t, weights, held[t]); });
        });
      } else {
        Part held[Outs];
        unrolled<Outs>([&](int o) LYNX_INLINE { held[o] = Type::template weights<kFull>(from + o * at_.inner, part); });
        unrolled<Rows>([&](int t) LYNX_INLINE {
          const Part values = row(t, place, part);
          unrolled<Outs>([&](int o) LYNX_INLINE { add(o, t, held[o], values); });
        });
      }
    });
  }

  LYNX_INLINE Part row(int t, int64_t place, int part) const {
    return Type::template row<kFull>(rows_[t] + place, part);
  }

  LYNX_INLINE void add(int o, int t, Part weights, Part row) {
    sums_[o][t] = Type::template add<kFull>(sums_[o][t], weights, row);
  }

  Sum sums_[Outs][Rows] = {};
  const char* rows_[Rows];
  const Operands<Type> at_;
  const int64_t blocks_;
};

// Products of Outs outputs with Rows rows. `First` is true for the first row group that reads these weights. The
// function is never inlined: inside a larger one its loop would have too few registers.
template <class Type, int Outs, int Rows, bool First>
__attribute__((noinline)) void multiply_tile(const Operands<Type>& at, PrefetchPlan plan) {
  Tile<Type, Outs, Rows> tile(at);
  tile.template add_blocks<First>(0, tile.blocks(), plan);
  tile.add_rest();
  tile.write_products();
}

// The same for one of several slices of the inputs.
template <class Type, int Outs, int Rows>
LYNX_INLINE inline void multiply_tile_slice(const Operands<Type>& at, PrefetchPlan plan,
                                            const Slice<typename Type::Sum>& slice) {
  Tile<Type, Outs, Rows> tile(at);
  if (slice.begin > 0) tile.load_sums(slice.sums);
  tile.template add_blocks<false>(slice.begin, slice.end, plan);
  if (slice.end < tile.blocks()) {
    tile.keep_sums(slice.sums);
    return;
  }
  tile.add_rest();
  tile.write_products();
}

// The shape of tiles. Sums, weights and rows of a tile fit the vector registers.
constexpr int kOuts = 4;
constexpr int kMostRows = kManyRegisters ? 6 : 4;
constexpr int tile_outs(int rows) { return kManyRegisters || rows <= 3 ? kOuts : 2; }

// How rows are divided into groups. With many registers the groups are even, so that none of them reads the weights for
// one row alone. With few registers they are of three rows, which need the fewest loads. Then the last four rows are
// two groups of two, which compute faster than one of four. But four rows in all are one group, which reads weights
// once.
constexpr int64_t row_groups(int64_t rows) {
  if (kManyRegisters) return (rows + kMostRows - 1) / kMostRows;
  return rows <= 4 ? 1 : (rows + 2) / 3;
}
constexpr int64_t group_rows(int64_t rows_left, int64_t groups_left) {
  if (kManyRegisters) return (rows_left + groups_left - 1) / groups_left;
  return groups_left == 1 ? rows_left : rows_left == 4 ? 2 : 3;
}

// Runs body(group, first row, rows) for each row group.
template <class Body>
LYNX_INLINE inline void for_row_groups(int64_t rows, const Body& body) {
  const int groups = (int)row_groups(rows);
  for (int64_t t = 0, group = 0; group < groups; ++group) {
    const int take = (int)group_rows(rows - t, groups - group);
    body((int)group, t, take);
    t += take;
  }
}

// Products of `Most` outputs, kOuts or 1, with one row group.
template <class Type, int Most, int Rows, bool First>
LYNX_INLINE inline void multiply_outputs(const Operands<Type>& at, PrefetchPlan plan) {
  constexpr int kTile = Most < tile_outs(Rows) ? Most : tile_outs(Rows);
  for (int o = 0; o < Most; o += kTile) {
    const int64_t bytes = o * at.inner * (int64_t)sizeof(typename Type::Weight);
    multiply_tile<Type, kTile, Rows, First>(at.from_output(o), {plan.ahead + bytes, plan.phase, plan.between});
  }
}

// Products of `Most` outputs with all rows. The weights at `ahead`, which are read next, are prefetched.
template <class Type, int Most>
inline void multiply_rows(const Operands<Type>& at, int64_t rows, const typename Type::Weight* ahead) {
  constexpr PrefetchSettings kPrefetch = prefetch_settings(sizeof(typename Type::Weight));
  const int groups = (int)row_groups(rows);
  const bool request_all =
      groups <= kPrefetch.most_groups && rows * packed_bytes<Type>(at.inner) <= kPrefetch.most_row_bytes;
  for_row_groups(rows, [&](int group, int64_t t, int take) LYNX_INLINE {
    const PrefetchPlan plan = request_all ? all_lines(ahead) : shared_lines(ahead, group, groups);
    with_constant<kMostRows>(take, [&](auto count) LYNX_INLINE {
      constexpr int kRows = decltype(count)::value;
      if (t == 0) multiply_outputs<Type, Most, kRows, true>(at, plan);
      else multiply_outputs<Type, Most, kRows, false>(at.from_row(t), plan);
    });
  });
}

// Whether rows are multiplied in panels: they do not fit the first-level cache while weights pass, and passing over the
// weights once for each row group would cost more than the panels do. Not with few registers, where groups of three
// rows are too small for panels to pay (measured with `benchmarks.kernels.product_bandwidth`).
constexpr bool in_panels(int64_t rows, int64_t packed_bytes) {
  return rows > 3 * kMostRows && rows * packed_bytes > 48 << 10;
}

// Bytes of a panel's weights, which stay in a core's second-level cache, and bytes of a row group's slice, which stay
// in its first-level cache.
constexpr int64_t kPanelBytes = 256 << 10, kSliceBytes = 24 << 10;
// Outputs of a panel whose inputs are taken in several slices: their sums are kept in memory between slices.
constexpr int64_t kMostKept = 32;

template <class Type>
constexpr int64_t slice_blocks() {
  return kSliceBytes / (kMostRows * Type::kPackedBlock);
}

// Products of one panel of `outs` outputs with row group `group` of `groups`, one slice of the inputs at a time. The
// first group prefetches the weights of its next tile, and the others share in prefetching `following`, the next panel.
template <class Type, int Rows>
__attribute__((noinline)) void multiply_slices(const Operands<Type>& at, int64_t outs, int group, int groups,
                                               const typename Type::Weight* following) {
  typename Type::Sum sums[kMostKept * Rows];
  const int64_t blocks = at.inner / Type::kBlock, most = slice_blocks<Type>();
  const int64_t slices = blocks <= most ? 1 : (blocks + most - 1) / most;
  // Slices begin at even blocks, where every type of weight has the beginning of a cache line.
  const auto bound = [&](int64_t i) { return i == slices ? blocks : blocks * i / slices / 2 * 2; };
  for (int64_t i = 0; i < slices; ++i) {
    const int64_t begin = bound(i), end = bound(i + 1);
    for (int64_t o = 0; o < outs; o += kOuts) {
      const Operands<Type> here = at.from_output(o);
      const typename Type::Weight* next = o + kOuts < outs ? here.weight + kOuts * at.inner : at.weight;
      const PrefetchPlan plan =
          group == 0 ? all_lines(next) : shared_lines(following + o * at.inner, group - 1, groups - 1);
      multiply_tile_slice<Type, kOuts, Rows>(here, plan, {begin, end, sums + o % kMostKept * Rows});
    }
  }
}

// Products of one panel of `outs` outputs with all rows. Row groups take turns in the first-level cache.
template <class Type>
void multiply_panel(const Operands<Type>& at, int64_t outs, int64_t rows, const typename Type::Weight* following) {
  const int groups = (int)row_groups(rows);
  for_row_groups(rows, [&](int group, int64_t t, int take) LYNX_INLINE {
    with_constant<kMostRows>(take, [&](auto count) LYNX_INLINE {
      multiply_slices<Type, decltype(count)::value>(at.from_row(t), outs, group, groups, following);
    });
  });
}

// Products of all whole tiles of outputs, in panels. Returns how many outputs that are.
template <class Type>
int64_t multiply_panels(const Operands<Type>& at, int64_t outs, int64_t rows, const typename Type::Weight* following) {
  const int64_t whole = outs / kOuts * kOuts;
  const int64_t fit = kPanelBytes / (at.inner * (int64_t)sizeof(*at.weight)) / kOuts * kOuts;
  const int64_t least = fit < kOuts ? kOuts : fit;
  const int64_t size = at.inner / Type::kBlock > slice_blocks<Type>() && least > kMostKept ? kMostKept : least;
  for (int64_t o = 0; o < whole; o += size) {
    const int64_t after = o + size, take = after < whole ? size : whole - o;
    multiply_panel<Type>(at.from_output(o), take, rows, after < whole ? at.weight + after * at.inner : following);
  }
  return whole;
}

// Products::multiply for one type of weight.
template <class Type>
void multiply(const void* weight, int64_t outs, const Scales& scales, const void* const* packed, int64_t rows,
              int64_t inner, float* y, int64_t y_stride, const void* following) {
  typedef typename Type::Weight Weight;
  const Operands<Type> at{
      static_cast<const Weight*>(weight), static_cast<const float*>(scales.data), packed, inner, y, y_stride};
  const Weight* after = following == nullptr ? at.weight + outs * inner : static_cast<const Weight*>(following);
  int64_t o = 0;
  if constexpr (kManyRegisters) {
    if (in_panels(rows, packed_bytes<Type>(inner))) o = multiply_panels<Type>(at, outs, rows, after);
  }
  for (; o + kOuts <= outs; o += kOuts) {
    const Operands<Type> here = at.from_output(o);
    multiply_rows<Type, kOuts>(here, rows, o + 2 * kOuts <= outs ? here.weight + kOuts * inner : after);
  }
  for (; o < outs; ++o) {
    const Operands<Type> here = at.from_output(o);
    multiply_rows<Type, 1>(here, rows, here.weight + inner);
  }
}

}  // namespace
}  // namespace lynx
