#include "attention.h"

namespace lynx {
namespace {

// Positions of a block of the cache.
constexpr int64_t kBlock = 32;
// Queries of a tile, at most.
constexpr int64_t kTile = 16;

// Some queries of one tile and one group: lanes [begin, begin + count) of the tile's queries times the group's heads.
struct Piece {
  int64_t tile, group, begin, count;
};

// The positions that a piece's queries see: each its own, any of them, and all of them.
struct Seen {
  int32_t first[kMostLanes], last[kMostLanes];
  int64_t any_first, any_end, all_first, all_end;
};

const int32_t* table_of(const ChunkAttention& op, int64_t tile) {
  const int64_t slot = op.slot[tile];
  return slot >= 0 && slot < op.slots ? op.tables + slot * op.table_blocks : nullptr;
}

// The block of the pool that holds a position, or -1.
int64_t block_of(const ChunkAttention& op, const int32_t* table, int64_t position) {
  if (table == nullptr || position < 0 || position >= op.table_blocks * kBlock) return -1;
  const int64_t block = table[position / kBlock];
  return block >= 0 && block < op.blocks ? block : -1;
}

// Rows [begin, end) of the step that a tile has queries for.
Run rows_of(const ChunkAttention& op, int64_t tile) {
  const int64_t begin = std::clamp<int64_t>(op.start[tile], 0, op.rows);
  return {begin, std::min(op.rows, begin + std::clamp<int64_t>(op.count[tile], 0, kTile))};
}

Seen seen_by(const ChunkAttention& op, const Piece& piece, int64_t lanes) {
  const int32_t* table = table_of(op, piece.tile);
  const int64_t rest = op.heads / op.groups;
  Seen seen;
  seen.any_first = seen.all_end = INT32_MAX;
  seen.any_end = seen.all_first = 0;
  for (int64_t lane = 0; lane < lanes; ++lane) {
    // Lanes after the last query see what it sees.
    const int64_t position = op.position[piece.tile] + (piece.begin + std::min(lane, piece.count - 1)) / rest;
    int64_t first = op.window > 0 ? std::max<int64_t>(0, position + 1 - op.window) : 0, end = position + 1;
    if (op.chunk > 0) first = std::max(first, position / op.chunk * op.chunk);
    if (block_of(op, table, position) < 0) first = end = 0;
    seen.first[lane] = static_cast<int32_t>(first);
    seen.last[lane] = static_cast<int32_t>(end - 1);
    if (first < end) seen.any_first = std::min(seen.any_first, first);
    seen.any_end = std::max(seen.any_end, end);
    seen.all_first = std::max(seen.all_first, first);
    seen.all_end = std::min(seen.all_end, end);
  }
  return seen;
}

// The buffers of a thread, for pieces of up to `lanes` lanes.
LaneAttention lanes_of(const ChunkAttention& op, int64_t lanes) {
  static thread_local Scratch scratch;
  const int64_t widest = std::max(op.width, op.value_width);
  LaneAttention to{};
  to.lanes = lanes;
  to.width = op.width;
  to.value_width = op.value_width;
  to.value_stride = op.value_stride;
  to.narrow = op.key.narrow;
  to.scale = op.scale;
  to.queries = scratch.get<float>((op.width + op.value_width + kBlock + 2) * lanes + kBlock * widest);
  to.sums = to.queries + op.width * lanes;
  to.scores = to.sums + op.value_width * lanes;
  to.tops = to.scores + kBlock * lanes;
  to.totals = to.tops + lanes;
  to.widened = to.totals + lanes;
  return to;
}

// Reads each block of the sequence once, as far as any of the piece's queries sees it.
void attend_blocks(const InstructionSet& set, const ChunkAttention& op, const Piece& piece, const Seen& seen,
                   const LaneAttention& lanes) {
  const int32_t* table = table_of(op, piece.tile);
  const int64_t key_bytes = op.width * op.key.bytes(), value_bytes = op.value_stride * op.value.bytes();
  for (int64_t at = seen.any_first, end = 0; at < seen.any_end; at = end) {
    end = std::min(seen.any_end, (at / kBlock + 1) * kBlock);
    const int64_t block = block_of(op, table, at);
    if (block < 0) continue;
    const int64_t place = (block * op.groups + piece.group) * kBlock + at % kBlock;
    set.attend_lanes(lanes, static_cast<const char*>(op.key.data) + place * key_bytes,
                     static_cast<const char*>(op.value.data) + place * value_bytes, at, end - at,
                     at < seen.all_first || end > seen.all_end);
  }
}

void attend(const InstructionSet& set, const ChunkAttention& op, const Piece& piece) {
  const int64_t rest = op.heads / op.groups, first_row = rows_of(op, piece.tile).begin;
  const int64_t lanes = (piece.count + set.lanes - 1) / set.lanes * set.lanes;
  const Seen seen = seen_by(op, piece, lanes);
  LaneAttention to = lanes_of(op, lanes);
  to.first = seen.first;
  to.last = seen.last;
  const void* queries[kMostLanes];
  int64_t places[kMostLanes];
  float sinks[kMostLanes] = {};
  for (int64_t lane = 0; lane < piece.count; ++lane) {
    const int64_t query = piece.begin + lane, head = piece.group * rest + query % rest;
    places[lane] = (first_row + query / rest) * op.heads + head;
    queries[lane] = static_cast<const char*>(op.query.data) + places[lane] * op.width * op.query.bytes();
    if (op.sinks != nullptr) sinks[lane] = op.sinks[head];
  }
  set.begin_lanes(to, queries, piece.count);
  attend_blocks(set, op, piece, seen, to);
  static thread_local Scratch results;
  float* mixed = results.get<float>(piece.count * op.value_width);
  set.finish_lanes(to, op.sinks == nullptr ? nullptr : sinks, piece.count, mixed);
  for (int64_t lane = 0; lane < piece.count; ++lane) {
    op.mixed.write(set, places[lane] * op.value_width, op.value_width, mixed + lane * op.value_width);
  }
}

// Writes zeros to the rows that no tile has.
void clear_other_rows(const ChunkAttention& op) {
  static thread_local Scratch scratch;
  bool* taken = scratch.get<bool>(op.rows);
  std::memset(taken, 0, op.rows);
  for (int64_t tile = 0; tile < op.tiles; ++tile) {
    const Run rows = rows_of(op, tile);
    std::memset(taken + rows.begin, 1, rows.size());
  }
  const int64_t row_bytes = op.heads * op.value_width * op.mixed.bytes();
  for (int64_t row = 0; row < op.rows; ++row) {
    if (!taken[row]) std::memset(static_cast<char*>(op.mixed.data) + row * row_bytes, 0, row_bytes);
  }
}

}  // namespace

void chunk_attention(const InstructionSet& set, const ChunkAttention& op) {
  clear_other_rows(op);
  const int64_t rest = op.heads / op.groups, parts = (kTile * rest + kMostLanes - 1) / kMostLanes;
  // The tiles of a group follow one another: they read the same blocks, which caches keep.
  for_each(op.groups * op.tiles * parts, 1, [&](int64_t item) {
    Piece piece{item / parts % op.tiles, item / parts / op.tiles, item % parts * kMostLanes, 0};
    piece.count = std::min(kMostLanes, rows_of(op, piece.tile).size() * rest - piece.begin);
    if (piece.count > 0) attend(set, op, piece);
  });
}

}  // namespace lynx
