#include "expert_ffn.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace lynx {
namespace {

// Assignments of rows to experts that are computed together, at most, and bytes of their gates. The bounds keep scratch
// memory independent of the length of a prompt.
constexpr int64_t kMostSlots = 8192, kMostBytes = 1 << 28;

// An expert that some row chose.
struct Live {
  int64_t expert, first, count;  // its assignments are places [first, first + count) of the sorted order
  int64_t room;                  // the first of its packed rows, where rows are packed as AMX tiles
};

// One block of rows. Its assignments are sorted by expert, and by row within an expert. place_of[t * top_k + k] is the
// place of one in this order, or -1 if the row is not valid.
class Block {
 public:
  Block(const InstructionSet& set, const ExpertFfn& op, int64_t first_row, int64_t rows)
      : set_(set),
        op_(op),
        products_(set.products[static_cast<int>(op.gate_up.type)]),
        first_row_(first_row),
        rows_(rows) {}

  void run() {
    group();
    static thread_local Scratch gate_up_scratch, results_scratch;
    gate_up_ = gate_up_scratch.get<float>(slots_ * 2 * op_.expert_width);
    results_ = results_scratch.get<float>(slots_ * op_.width);
    pack_rows();
    multiply_all(op_.gate_up, 2 * op_.expert_width, op_.width, op_.gate_up_bias, gate_up_);
    pack_hidden();
    multiply_all(op_.down, op_.width, op_.expert_width, op_.down_bias, results_);
    combine();
  }

 private:
  int64_t assignment(int64_t row, int64_t k) const { return (first_row_ + row) * op_.top_k + k; }

  void group() {
    std::vector<int64_t> count(op_.experts);
    place_of_.assign(rows_ * op_.top_k, -1);
    const auto each = [&](auto body) {
      for (int64_t t = 0; t < rows_; ++t) {
        if (!op_.valid[first_row_ + t]) continue;
        for (int64_t k = 0; k < op_.top_k; ++k) {
          const int32_t expert = op_.ids[assignment(t, k)];
          if (expert >= 0 && expert < op_.experts) body(t, k, expert);
        }
      }
    };
    each([&](int64_t, int64_t, int32_t expert) { ++count[expert]; });
    for (int64_t e = 0; e < op_.experts; ++e) {
      if (count[e] > 0) {
        live_.push_back({e, slots_, count[e], room_});
        room_ += tile_room(count[e]);
      }
      slots_ += count[e];
      count[e] = slots_ - count[e];
    }
    for (const Live& of : live_) {
      for (int64_t place = 0; place < of.count; place += kTileRows) groups_.push_back({&of, place});
    }
    row_of_.resize(slots_);
    each([&](int64_t t, int64_t k, int32_t expert) {
      row_of_[count[expert]] = t;
      place_of_[t * op_.top_k + k] = count[expert]++;
    });
  }

  void pack_rows() {
    const int64_t width = op_.width, bytes = packed_bytes(width);
    static thread_local Scratch scratch;
    memory_ = scratch.get<char>((tiled() ? room_ : rows_) * bytes);
    const auto read = [&](int64_t t, float* row) { op_.x.read(set_, (first_row_ + t) * width, width, row); };
    if (tiled()) {
      pack_tiled(width, [&](int64_t slot, int64_t count) {
        static thread_local Scratch wide;
        float* rows = wide.get<float>(kTileRows * width);
        for (int64_t i = 0; i < count; ++i) read(row_of_[slot + i], rows + i * width);
        return rows;
      });
      return;
    }
    for_each(rows_, 8, [&](int64_t t) {
      if (!op_.valid[first_row_ + t]) return;
      static thread_local Scratch wide;
      float* row = wide.get<float>(width);
      read(t, row);
      products_.pack(row, width, memory_ + t * bytes);
    });
    packed_.resize(slots_);
    for (int64_t s = 0; s < slots_; ++s) packed_[s] = memory_ + row_of_[s] * bytes;
  }

  // y[s, o] = packed row of assignment s times output o of its expert, plus the output's bias.
  void multiply_all(const Weight& weight, int64_t all, int64_t inner, const void* bias, float* y) {
    const int64_t chunk = chunk_outs(products_, live() * all, weight.row_bytes);
    const int64_t chunks = (all + chunk - 1) / chunk;
    const auto expert = [&](int64_t item) { return live_[item / chunks].expert; };
    const auto output = [&](int64_t item) { return item % chunks * chunk; };
    parallel_runs(live() * chunks, kMostChunk / chunk, [&](Run run, int64_t following) {
      split(run, chunks, following, [&](Run part, int64_t then) {
        const Live& of = live_[part.begin / chunks];
        const int64_t first = output(part.begin), outs = std::min(part.size() * chunk, all - first);
        const void* next = then < 0 ? nullptr : weight.row(expert(then), output(then));
        for (int64_t s = 0; s < of.count; s += kRowBlock) {
          const int64_t rows = std::min(kRowBlock, of.count - s);
          float* to = y + (of.first + s) * all + first;
          multiply(weight, first, outs, of, s, rows, inner, to, all, next);
          add_bias(set_, bias, op_.x.narrow, of.expert * all + first, rows, outs, to, all);
        }
      });
    });
  }

  void pack_hidden() {
    const int64_t f = op_.expert_width, bytes = packed_bytes(f);
    const auto hidden = [&](int64_t slot, int64_t count) {
      static thread_local Scratch wide;
      float* rows = wide.get<float>(count * f);
      for (int64_t i = 0; i < count; ++i) {
        const float* gate = gate_up_ + (slot + i) * 2 * f;
        set_.swiglu(gate, gate + f, f, op_.activation, rows + i * f);
      }
      return rows;
    };
    static thread_local Scratch scratch;
    memory_ = scratch.get<char>((tiled() ? room_ : slots_) * bytes);
    if (tiled()) pack_tiled(f, hidden);
    else for_each(slots_, 2, [&](int64_t s) { products_.pack(hidden(s, 1), f, memory_ + s * bytes); });
    for (size_t s = 0; s < packed_.size(); ++s) packed_[s] = memory_ + s * bytes;
  }

  void combine() {
    for_each(rows_, 4, [&](int64_t t) {
      static thread_local Scratch scratch;
      float* sum = scratch.get<float>(op_.width);
      std::memset(sum, 0, 4 * op_.width);
      for (int64_t k = 0; k < op_.top_k; ++k) {
        const int64_t place = place_of_[t * op_.top_k + k];
        if (place >= 0) set_.add_scaled(op_.weights[assignment(t, k)], results_ + place * op_.width, op_.width, sum);
      }
      op_.y.write(set_, (first_row_ + t) * op_.width, op_.width, sum);
    });
  }

  int64_t live() const { return static_cast<int64_t>(live_.size()); }

  bool tiled() const { return products_.multiply_tiled != nullptr; }

  int64_t packed_bytes(int64_t inner) const {
    return tiled() ? products_.tiled_row_bytes(inner) : products_.packed_bytes(inner);
  }

  // Packs each expert's assignments together, one tile at a time. rows_from(slot, count) returns the rows of a tile.
  template <class Function>
  void pack_tiled(int64_t inner, const Function& rows_from) {
    for_each(static_cast<int64_t>(groups_.size()), 1, [&](int64_t group) {
      const auto [of, place] = groups_[group];
      const int64_t count = std::min(kTileRows, of->count - place);
      products_.pack_tiled(rows_from(of->first + place, count), inner, count, inner, place, of->count,
                           memory_ + of->room * packed_bytes(inner));
    });
  }

  // Products of outputs [first, first + outs) of an expert with `rows` of its assignments, from the `place`-th on.
  void multiply(const Weight& weight, int64_t first, int64_t outs, const Live& of, int64_t place, int64_t rows,
                int64_t inner, float* y, int64_t stride, const void* next) {
    const char* from = weight.row(of.expert, first);
    if (tiled()) {
      products_.multiply_tiled(from, outs, memory_ + (of.room + place) * packed_bytes(inner), tile_width(of.count),
                               rows, inner, y, stride, next);
    } else {
      products_.multiply(from, outs, weight.scales_from(of.expert, first), packed_.data() + of.first + place, rows,
                         inner, y, stride, next);
    }
  }

  const InstructionSet& set_;
  const ExpertFfn& op_;
  const Products& products_;
  const int64_t first_row_, rows_;
  int64_t slots_ = 0, room_ = 0;
  std::vector<Live> live_;
  std::vector<std::pair<const Live*, int64_t>> groups_;  // of each tile of rows, the expert and its first assignment
  std::vector<int64_t> row_of_, place_of_;
  char* memory_ = nullptr;  // packed rows; in the order of assignments where they are AMX tiles
  std::vector<const void*> packed_;
  float* gate_up_ = nullptr;
  float* results_ = nullptr;
};

}  // namespace

void expert_ffn(const InstructionSet& set, const ExpertFfn& op) {
  const int64_t slots = std::min(kMostSlots, kMostBytes / (8 * op.expert_width));
  const int64_t block = std::max<int64_t>(1, slots / op.top_k);
  for (int64_t row = 0; row < op.rows; row += block) Block(set, op, row, std::min(block, op.rows - row)).run();
}

}  // namespace lynx
