#include <cmath>

#include "attention.h"

namespace lynx {
namespace {

// An item is some queries of one row with their key/value heads. A thread takes one at a time.
// Key/value heads of an item, at most. In a block of a pool they lie one behind the other, and memory is read fastest
// in long runs.
constexpr int64_t kMostGroups = 8;
// Queries of an item, at most, and at least where the queries of one key/value head are divided to employ all threads.
constexpr int64_t kMostQueries = 32, kLeastQueries = 4;
// Positions that are computed between two prefetches. To prefetch many at once would fill the processor's buffers for
// cache misses, and the products would wait.
constexpr int64_t kStride = 8;
// Bytes from what is read to what is prefetched, into the second-level cache.
constexpr int64_t kAhead = 24576;
// Bytes of a page of memory.
constexpr int64_t kPage = 4096;

// How an op's queries are divided into items: `groups` key/value heads each, or one of `parts` of the queries of one.
struct Items {
  explicit Items(const DecodeAttention& op) : queries(op.heads / op.groups) {
    const int64_t wanted = 2 * thread_count(), pairs = std::max<int64_t>(1, op.batch * op.groups);
    groups = std::clamp<int64_t>(std::min(pairs / wanted, kMostQueries / queries), 1, kMostGroups);
    const int64_t most_parts = std::max<int64_t>(1, queries / kLeastQueries);
    parts = std::max((queries + kMostQueries - 1) / kMostQueries, std::min(most_parts, wanted / pairs));
    of_row = (op.groups + groups - 1) / groups * parts;
    count = op.batch * of_row;
  }

  int64_t queries;  // of a key/value head
  int64_t groups, parts, of_row, count;
};

struct Item {
  Item(const DecodeAttention& op, const Items& items, int64_t index) : row(index / items.of_row) {
    const int64_t of_row = index % items.of_row, part = of_row % items.parts;
    group = of_row / items.parts * items.groups;
    groups = std::min(items.groups, op.groups - group);
    const int64_t first = part * items.queries / items.parts;
    queries = (part + 1) * items.queries / items.parts - first;
    first_head = group * items.queries + first;
  }

  int64_t row, group, groups;
  int64_t first_head, queries;  // of the first group; the others' lie behind them
};

// Some positions that lie one behind the other in memory, of one key/value head; missing ones have no rows.
struct Stretch {
  const char* rows;
  int64_t count;
};

// The positions [first, end) of an item's row that its queries see: for each key/value head one stretch of a dense
// cache, or one in each block of a pool.
class Seen {
 public:
  Seen() = default;
  Seen(const DecodeAttention& op, const Item& item)
      : op_(&op), row_(item.row), group_(item.group), groups_(item.groups) {
    const int64_t position = op.positions[row_];
    if (op.blocks.paged() ? op.blocks.block(row_, position) < 0 : position < 0) return;
    end_ = op.blocks.paged() ? position + 1 : std::min(position + 1, op.capacity);
    if (op.window > 0) first_ = std::clamp<int64_t>(position + 1 - op.window, 0, end_);
    if (op.chunk > 0) first_ = std::clamp<int64_t>(position / op.chunk * op.chunk, first_, end_);
  }

  // How many positions they are, with those that are missing.
  int64_t room() const { return end_ - first_; }
  int64_t groups() const { return groups_; }

  // The first key/value head's stretch from the position on that is `from` behind the first one.
  Stretch stretch(bool values, int64_t from) const {
    const int64_t position = first_ + from;
    const Rows& rows = values ? op_->value : op_->key;
    const bool paged = op_->blocks.paged();
    const int64_t row = paged ? op_->blocks.block(row_, position) : row_, begin = paged ? position % kBlock : position;
    const int64_t at = ((row * op_->groups + group_) * op_->capacity + begin) * op_->width * rows.bytes();
    return {row < 0 ? nullptr : static_cast<const char*>(rows.data) + at,
            std::min(paged ? kBlock - begin : op_->capacity, end_ - position)};
  }
  // Bytes from a key/value head's stretch to the next one's, and of a block with all heads.
  int64_t group_bytes() const { return op_->capacity * op_->width * op_->key.bytes(); }
  int64_t block_bytes() const { return groups_ * group_bytes(); }

  // Where the first position's keys lie; null if none is seen.
  const char* begin() const { return room() > 0 ? stretch(false, 0).rows : nullptr; }

 private:
  const DecodeAttention* op_ = nullptr;
  int64_t row_ = 0, group_ = 0, groups_ = 0, first_ = 0, end_ = 0;
};

// A place in the order in which an item is read: all keys, then all values; all heads of a block, then the next block.
class Cursor {
 public:
  explicit Cursor(const Seen& seen) : seen_(&seen) {
    if (seen.room() > 0) rest_ = head_ = seen.stretch(false, 0);
  }

  // What is left of the stretch; its count is 0 at the end.
  const Stretch& rest() const { return rest_; }

  // Whether a block begins here, and where the block behind it begins; null if it is missing or there is none.
  bool at_block() const { return group_ == 0 && rest_.count == head_.count; }
  const char* next_block() const {
    const int64_t next = from_ + head_.count;
    return next < seen_->room() ? seen_->stretch(values_, next).rows : nullptr;
  }

  // Steps over `count` positions of the stretch.
  void step(int64_t count, int64_t row_bytes) {
    rest_.count -= count;
    if (rest_.rows != nullptr) rest_.rows += count * row_bytes;
    if (rest_.count == 0) next_stretch();
  }

 private:
  void next_stretch() {
    if (++group_ == seen_->groups()) {
      group_ = 0;
      from_ += head_.count;
      if (from_ == seen_->room()) {
        if (values_) return;
        values_ = true;
        from_ = 0;
      }
      head_ = seen_->stretch(values_, from_);
    }
    rest_ = head_;
    if (rest_.rows != nullptr) rest_.rows += group_ * seen_->group_bytes();
  }

  const Seen* seen_;
  bool values_ = false;
  int64_t from_ = 0, group_ = 0;
  Stretch head_{nullptr, 0}, rest_{nullptr, 0};  // the first head's stretch, and what is left of this head's
};

// Reads an item's keys, and then its values, some positions at a time, and prefetches what is read kAhead bytes later,
// be it of this item or of the next one.
class Reader {
 public:
  // `warm` says that the item's first kAhead bytes are prefetched already.
  Reader(const Seen& seen, const Seen& next, int64_t row_bytes, bool warm)
      : seen_(seen), at_(seen), ahead_(seen), next_(next), row_bytes_(row_bytes), most_lead_(kAhead / row_bytes) {
    if (warm) advance(most_lead_, false);
  }

  // Calls body(key/value head, place, rows, count) for the item's keys, and in a second call for its values. `place` is
  // how many positions were read before of the same head. Returns how many there are.
  template <class Body>
  int64_t read(const Body& body) {
    int64_t place = 0;
    for (int64_t from = 0; from < seen_.room();) {
      const int64_t count = at_.rest().count;
      const bool missing = at_.rest().rows == nullptr;
      for (int64_t g = 0; g < seen_.groups(); ++g) {
        for (int64_t i = 0; i < count; i += kStride) {
          const int64_t some = std::min(kStride, count - i);
          lead_ -= some;
          // Twice as much as is read, until the lead is full.
          advance(std::min(2 * kStride, most_lead_ - lead_), true);
          if (!missing) body(g, place + i, at_.rest().rows, some);
          at_.step(some, row_bytes_);
        }
      }
      from += count;
      if (!missing) place += count;
    }
    return place;
  }

 private:
  // Adds `count` positions to the lead, or fewer at the end of the next item.
  void advance(int64_t count, bool prefetch) {
    while (count > 0) {
      if (ahead_.rest().count == 0) {
        if (in_next_) return;
        in_next_ = true;
        ahead_ = Cursor(next_);
        continue;
      }
      if (prefetch && ahead_.at_block()) request_pages(ahead_.next_block(), seen_.block_bytes());
      const int64_t some = std::min(count, ahead_.rest().count);
      const char* rows = prefetch ? ahead_.rest().rows : nullptr;
      for (int64_t byte = 0; rows != nullptr && byte < some * row_bytes_; byte += 64) {
        __builtin_prefetch(rows + byte, 0, 2);
      }
      ahead_.step(some, row_bytes_);
      lead_ += some;
      count -= some;
    }
  }

  // A block of a pool is in other pages than the block before, and to find a page takes long.
  static void request_pages(const char* block, int64_t bytes) {
    for (int64_t byte = 0; block != nullptr && byte < bytes; byte += kPage) __builtin_prefetch(block + byte, 0, 2);
  }

  const Seen& seen_;
  Cursor at_, ahead_;
  const Seen& next_;
  const int64_t row_bytes_, most_lead_;
  bool in_next_ = false;
  int64_t lead_ = 0;  // positions from `at_` to `ahead_`
};

// Attention of one item. The scores are a product in which the keys are the weight and the queries are the packed rows.
void attend(const InstructionSet& set, const DecodeAttention& op, const Items& items, const Item& item, int64_t room,
            Reader& reader) {
  const int64_t width = op.width, value_width = op.value_width, queries = item.queries, heads = item.groups * queries;
  const Products& products =
      set.products[static_cast<int>(op.key.narrow ? WeightType::kBfloat16 : WeightType::kFloat32)];
  const int64_t bytes = products.packed_bytes(width);
  static thread_local Scratch scratch, packed_scratch, pointers;
  float* scores = scratch.get<float>(heads * (room + value_width + 1) + width);
  float *mixed = scores + heads * room, *totals = mixed + heads * value_width, *query = totals + heads;
  char* packed = packed_scratch.get<char>(heads * bytes);
  const void** rows = pointers.get<const void*>(heads);
  const auto head_of = [&](int64_t i) { return item.first_head + i / queries * items.queries + i % queries; };
  for (int64_t i = 0; i < heads; ++i) {
    op.query.read(set, (item.row * op.heads + head_of(i)) * width, width, query);
    products.pack(query, width, packed + i * bytes);
    rows[i] = packed + i * bytes;
  }
  const int64_t count = reader.read([&](int64_t g, int64_t place, const char* keys, int64_t some) {
    products.multiply(keys, some, {}, rows + g * queries, queries, width, scores + g * queries * room + place, room,
                      nullptr);
  });
  for (int64_t i = 0; i < heads; ++i) {
    const float sink = op.sinks == nullptr ? -INFINITY : op.sinks[head_of(i)];
    const float top = std::fmax(sink, set.scale(op.scale, count, scores + i * room));
    totals[i] = set.exponentials(scores + i * room, count, top);
    if (op.sinks != nullptr) totals[i] += std::exp(sink - top);
  }
  std::memset(mixed, 0, 4 * heads * value_width);
  reader.read([&](int64_t g, int64_t place, const char* values, int64_t some) {
    set.add_rows(values, op.value.narrow, some, value_width, width, scores + g * queries * room + place, room, queries,
                 mixed + g * queries * value_width);
  });
  for (int64_t i = 0; i < heads; ++i) {
    float* own = mixed + i * value_width;
    for (int64_t v = 0; count > 0 && v < value_width; ++v) own[v] /= totals[i];
    op.mixed.write(set, (item.row * op.heads + head_of(i)) * value_width, value_width, own);
  }
}

}  // namespace

void decode_attention(const InstructionSet& set, const DecodeAttention& op) {
  const Items items(op);
  parallel(items.count, [&](int64_t index, int64_t following) {
    // The keys that this thread prefetched last, while it computed the item before.
    static thread_local const char* prefetched = nullptr;
    const Item item(op, items, index);
    const Seen seen(op, item), next = following < 0 ? Seen() : Seen(op, Item(op, items, following));
    Reader reader(seen, next, op.width * op.key.bytes(), seen.begin() == prefetched);
    attend(set, op, items, item, seen.room(), reader);
    prefetched = next.begin();
  });
}

}  // namespace lynx
