// One instruction set's table of functions. build.py compiles this file once for each set: see vectors.h.
#include "products.h"

#include "group_products.h"
#include "group_search.h"
#include "lane_attention.h"
#include "tile.h"
#include "vector_loops.h"
#if LYNX_TILES
#include "amx_products.h"
#endif

namespace lynx {
namespace {

template <class Type>
constexpr Products products() {
  return {kOuts, packed_bytes<Type>, pack<Type>, multiply<Type>, nullptr, nullptr, nullptr};
}

#if LYNX_TILES
template <>
constexpr Products products<Bfloat16>() {
  return {kTileRows,  packed_bytes<Bfloat16>, pack<Bfloat16>, multiply<Bfloat16>, tiled_row_bytes,
          pack_tiled, multiply_tiled};
}
#endif

constexpr Products kInt4Products = {kGroupOuts, group_packed_bytes, pack_groups, multiply_groups, nullptr, nullptr,
                                    nullptr};

#define LYNX_TEXT(name) #name
#define LYNX_TEXT_OF(name) LYNX_TEXT(name)

}  // namespace

extern const InstructionSet LYNX_SET;
const InstructionSet LYNX_SET = {
    LYNX_TEXT_OF(LYNX_SET),
    kLanes,
    // In the order of WeightType.
    {products<Bfloat16>(), products<Float32>(), products<Int8>(), kInt4Products},
    swiglu,
    add_scaled,
    finish,
    scale,
    scale_each,
    rotate,
    exponentials,
    add_rows,
    begin_lanes,
    attend_lanes,
    finish_lanes,
    largest,
    dot,
    widen,
    narrow,
    search_groups,
};

}  // namespace lynx
