#include "keep_sets.h"

#include <cmath>
#include <numeric>
#include <utility>

#include "rows.h"

namespace lynx {
namespace {

// A probability of 1 in the fixed point of `cover`. A sum over a row's experts still fits an int32.
constexpr int32_t kUnit = 1 << 30;
// The say of the row with the largest weight.
constexpr int64_t kWholeSay = 256;

// The number of bits of the largest place in a batch of `rows` rows.
int bits_of(int64_t rows) {
  int bits = 0;
  while ((rows - 1) >> bits) ++bits;
  return bits;
}

int64_t size_of(const bool* experts, int64_t count) { return std::count(experts, experts + count, true); }

// What reading a set of experts costs: how many they are, or the sum of their costs.
int64_t total_cost(const bool* experts, int64_t count, const Terms& terms) {
  if (terms.cost == nullptr) return size_of(experts, count);
  int64_t total = 0;
  for (int64_t e = 0; e < count; ++e) total += experts[e] ? terms.cost[e] : 0;
  return total;
}

// `value * say / 256`, rounded down, exactly `value` where the say is 256.
int32_t weighted(int32_t value, int32_t say) { return (value >> 8) * say + (((value & 255) * say) >> 8); }

void weigh_by_say(const Terms& terms, const Scores& scores, int64_t row, int64_t count, int32_t* values) {
  if (terms.say == nullptr) return;
  const int32_t say = terms.say[scores.places[row]];
  for (int64_t i = 0; i < count; ++i) values[i] = weighted(values[i], say);
}

// Whether one value per cost comes before another: a larger one, or an equal one of larger value.
bool ahead(int32_t value, int64_t e, int32_t other, int64_t o, const Terms& terms) {
  if (terms.cost == nullptr) return value > other;
  const float left = static_cast<float>(value) / static_cast<float>(terms.cost[e]);
  const float right = static_cast<float>(other) / static_cast<float>(terms.cost[o]);
  return left > right || (left == right && value > other);
}

void begin_with_free(const Terms& terms, int64_t experts, bool* kept) {
  if (terms.free == nullptr) std::fill_n(kept, experts, false);
  else std::copy_n(terms.free, experts, kept);
}

void first_choices(const Scores& scores, int64_t first, bool* kept) {
  for (int64_t row = 0; row < scores.rows; ++row) {
    for (int64_t k = 0; k < std::min(first, scores.top_k); ++k) kept[scores.own[row * scores.top_k + k]] = true;
  }
}

// Counts of rows for each expert and bin. The counts of one expert are the digits of a number, from the best bin on, so
// that comparing the numbers compares the counts.
class Votes {
 public:
  // `most` is the largest count that a bin can have.
  Votes(int64_t experts, int64_t bins, int64_t most) : bins_(bins) {
    static thread_local Scratch scratch;
    const int bits = bits_of(most + 1), digits = 64 / bits;
    size_ = (bins + digits - 1) / digits;
    for (int bin = 0; bin < bins; ++bin) {
      word_[bin] = bin / digits;
      one_[bin] = uint64_t{1} << bits * (digits - 1 - bin % digits);
    }
    words_ = scratch.get<uint64_t>(experts * size_);
    std::fill_n(words_, experts * size_, 0);
  }

  void add(int64_t expert, int64_t bin, uint64_t say) {
    if (bin < bins_) words_[expert * size_ + word_[bin]] += say * one_[bin];
  }
  bool fewer(int64_t one, int64_t other) const {
    const uint64_t *left = words_ + one * size_, *right = words_ + other * size_;
    return std::lexicographical_compare(left, left + size_, right, right + size_);
  }

 private:
  static constexpr int kMostBins = 32;  // VOTE_BINS

  int64_t bins_, size_;
  int word_[kMostBins];
  uint64_t one_[kMostBins];
  uint64_t* words_;
};

// Keeps every row's best experts by their bin, and by the batch's votes within a bin. Votes are the counts of rows in
// each bin, by their say, compared from the best bin on. This ranks experts as the sum over B rows of B^bin does,
// because one row in a bin outweighs all rows in the bins below it.
void affinity_bins(const Router& router, const KeepRule& rule, const Terms& terms, const Scores& scores, bool* kept) {
  static thread_local Scratch key_scratch, order_scratch;
  const int64_t experts = scores.experts;
  const float* affinity = affinities(router, scores);
  // A key is the bin times the number of experts, plus a rank less than that number: a whole number below 2^24.
  float* keys = key_scratch.get<float>((scores.rows + 1) * experts);
  float* popularity = keys + scores.rows * experts;
  Votes votes(experts, rule.votes, terms.say == nullptr ? scores.rows : scores.rows * kWholeSay);
  for (int64_t row = 0; row < scores.rows; ++row) {
    const float* of_row = affinity + row * experts;
    const float top = *std::max_element(of_row, of_row + experts);
    const uint64_t say = terms.say == nullptr ? 1 : static_cast<uint64_t>(terms.say[scores.places[row]]);
    for (int64_t e = 0; e < experts; ++e) {
      const float bins = -std::ceil(rule.alpha * (of_row[e] - top));
      int64_t depth = bins < static_cast<float>(rule.lowest) ? static_cast<int64_t>(bins) : rule.lowest;
      // An expert that the row may not choose lies one bin below the lowest, where no votes are counted.
      if (of_row[e] <= kLowest) depth = rule.lowest + 1;
      votes.add(e, depth, say);
      keys[row * experts + e] = static_cast<float>(-depth * experts);
    }
  }
  int32_t* order = order_scratch.get<int32_t>(experts + scores.top_k);
  int32_t* ids = order + experts;
  std::iota(order, order + experts, 0);
  std::sort(order, order + experts, [&](int32_t one, int32_t other) { return votes.fewer(one, other); });
  for (int64_t i = 0, rank = 0; i < experts; ++i) {
    if (i > 0 && votes.fewer(order[i - 1], order[i])) rank = i;
    popularity[order[i]] = static_cast<float>(rank);
  }
  for (float* of_row = keys; of_row < popularity; of_row += experts) {
    for (int64_t e = 0; e < experts; ++e) of_row[e] += popularity[e];
    best_places(of_row, experts, scores.top_k, ids);
    for (int64_t k = 0; k < scores.top_k; ++k) kept[ids[k]] = true;
  }
}

// The state of a greedy rule: each row's best `top_k` values among the experts taken so far, and the gain of each other
// expert, by row and in all. Taking an expert recomputes the gains only of the rows that it changes.
template <class T>
class Greedy {
 public:
  Greedy(const T* values, const Scores& scores, const Terms& terms)
      : values_(values),
        scores_(scores),
        terms_(terms),
        rows_(scores.rows),
        experts_(scores.experts),
        top_k_(scores.top_k) {
    static thread_local Scratch best_scratch, gain_scratch;
    bests_ = best_scratch.get<T>(rows_ * top_k_);
    gains_ = gain_scratch.get<int32_t>((rows_ + 1) * experts_);
    total_ = gains_ + rows_ * experts_;
    std::fill_n(bests_, rows_ * top_k_, T{0});
    std::fill_n(gains_, (rows_ + 1) * experts_, 0);
  }

  T least(int64_t row) const { return *place(row); }
  T sum(int64_t row) const { return std::accumulate(bests_ + row * top_k_, bests_ + (row + 1) * top_k_, T{0}); }

  // Begins a row, whose values are known by now, with the experts that are free.
  void begin(int64_t row) {
    if (terms_.free == nullptr) return;
    for (int64_t e = 0; e < experts_; ++e) {
      const T value = values_[row * experts_ + e];
      if (terms_.free[e] && value > least(row)) *place(row) = value;
    }
  }

  // fill(row, gains) computes the gain of each expert in one row.
  template <class Fill>
  void update(int64_t row, const Fill& fill) {
    int32_t* gains = gains_ + row * experts_;
    for (int64_t e = 0; e < experts_; ++e) total_[e] -= gains[e];
    fill(row, gains);
    weigh_by_say(terms_, scores_, row, experts_, gains);
    for (int64_t e = 0; e < experts_; ++e) total_[e] += gains[e];
  }

  // The candidate outside of `kept` with the largest gain per cost, and its gain; -1 if none costs at most `room`. Ties
  // go to the lowest expert. If `candidates` is null, all experts are candidates.
  std::pair<int64_t, int32_t> most(const bool* kept, const bool* candidates, int64_t room) const {
    std::pair<int64_t, int32_t> best{-1, -1};
    for (int64_t e = 0; e < experts_; ++e) {
      if (kept[e] || (candidates != nullptr && !candidates[e]) || cost_of(e) > room) continue;
      if (best.first < 0 || ahead(total_[e], e, best.second, best.first, terms_)) best = {e, total_[e]};
    }
    return best;
  }

  int64_t cost_of(int64_t expert) const { return terms_.cost == nullptr ? 1 : terms_.cost[expert]; }

  template <class Fill>
  void take(int64_t expert, const Fill& fill) {
    for (int64_t row = 0; row < rows_; ++row) {
      const T value = values_[row * experts_ + expert];
      if (value <= least(row)) continue;
      *place(row) = value;
      update(row, fill);
    }
  }

 private:
  T* place(int64_t row) const { return std::min_element(bests_ + row * top_k_, bests_ + (row + 1) * top_k_); }

  const T* values_;
  const Scores& scores_;
  const Terms& terms_;
  int64_t rows_, experts_, top_k_;
  T* bests_;
  int32_t *gains_, *total_;
};

// Keeps candidates by descending gain per cost until every row has its own mass less a share `slack` of it, or no other
// candidate fits a total cost of `most`. `kept` begins with the experts that are free. Masses are in fixed point.
void cover(const float* worth, float slack, const Terms& terms, const Scores& scores, int64_t rows,
           const bool* candidates, int64_t most, bool* kept) {
  static thread_local Scratch fixed_scratch, floor_scratch;
  const int64_t experts = scores.experts, top_k = scores.top_k;
  int32_t* fixed = fixed_scratch.get<int32_t>(scores.rows * experts);
  int32_t* floors = floor_scratch.get<int32_t>(scores.rows);
  for (int64_t at = 0; at < scores.rows * experts; ++at) fixed[at] = static_cast<int32_t>(worth[at] * kUnit);
  Greedy<int32_t> greedy(fixed, scores, terms);
  // Gains are rounded up, so that none vanishes.
  const int shift = bits_of(rows), up = (1 << shift) - 1;
  int64_t short_rows = 0;
  const auto gain = [&](int64_t row, int32_t* gains) {
    const int32_t least = greedy.least(row), deficit = std::max(floors[row] - greedy.sum(row), 0);
    const int32_t* own = fixed + row * experts;
    for (int64_t e = 0; e < experts; ++e) gains[e] = (std::clamp(own[e] - least, 0, deficit) + up) >> shift;
    if (deficit > 0 || floors[row] == 0) return;
    floors[row] = 0;
    --short_rows;
  };
  for (int64_t row = 0; row < scores.rows; ++row) {
    int32_t mass = 0;
    for (int64_t k = 0; k < top_k; ++k) mass += fixed[row * experts + scores.own[row * top_k + k]];
    floors[row] = mass - static_cast<int32_t>(slack * static_cast<float>(mass));
    short_rows += floors[row] > 0;
    greedy.begin(row);
    greedy.update(row, gain);
  }
  int64_t room = most - total_cost(kept, experts, terms);
  while (short_rows > 0) {
    const int64_t expert = greedy.most(kept, candidates, room).first;
    if (expert < 0) return;
    kept[expert] = true;
    room -= greedy.cost_of(expert);
    greedy.take(expert, gain);
  }
}

// The saving of each expert in one row, in fixed point, rounded to the nearest. It is the expert's own `squares`, plus
// the decrease of lost^2 where the expert's weight replaces the smaller `least`.
void savings(const float* squares, const float* weights, int64_t experts, float least, float lost, float unit,
             int32_t* saved) {
  for (int64_t e = 0; e < experts; ++e) {
    const float over = weights[e] - least, left = lost - (over > 0 ? over : 0);
    const float up = (squares[e] + lost * lost - left * left) * unit + 0.5f;
    const int32_t whole = static_cast<int32_t>(up);
    saved[e] = whole - static_cast<int32_t>(up < static_cast<float>(whole));
  }
}

// Experts by descending saving while the next saves the price; savings of rows are added up in fixed point.
// `own_cost` is the cost of the rows' own experts.
void worth_reading(const float* worth, const KeepRule& rule, const Terms& terms, const Scores& scores, int64_t rows,
                   int64_t own_cost, bool* kept) {
  static thread_local Scratch scratch, fixed_scratch;
  const int64_t experts = scores.experts, top_k = scores.top_k;
  // One row's saving is at most 2, so that the sum over the rows fits an int32.
  const float unit = static_cast<float>(1 << (29 - bits_of(rows)));
  float* weights = scratch.get<float>(2 * scores.rows * experts);
  float* squares = weights + scores.rows * experts;
  int32_t* fixed = fixed_scratch.get<int32_t>(experts);
  std::fill_n(squares, scores.rows * experts, 0.0f);
  Greedy<float> greedy(weights, scores, terms);
  const auto saving = [&](int64_t row, int32_t* saved) {
    savings(squares + row * experts, weights + row * experts, experts, greedy.least(row), 1 - greedy.sum(row), unit,
            saved);
  };
  int64_t total = 0;
  for (int64_t row = 0; row < scores.rows; ++row) {
    const int32_t* own = scores.own + row * top_k;
    float mass = 0;
    for (int64_t k = 0; k < top_k; ++k) mass += worth[row * experts + own[k]];
    for (int64_t e = row * experts; e < (row + 1) * experts; ++e) weights[e] = worth[e] / mass;
    for (int64_t k = 0; k < top_k; ++k) {
      const int64_t at = row * experts + own[k];
      squares[at] = weights[at] * weights[at];
    }
    // With infinite `least`, a saving is the square alone.
    savings(squares + row * experts, weights + row * experts, experts, INFINITY, 0, unit, fixed);
    weigh_by_say(terms, scores, row, experts, fixed);
    total = std::accumulate(fixed, fixed + experts, total);
    greedy.begin(row);
    greedy.update(row, saving);
  }
  const float price = rule.share * static_cast<float>(total) / static_cast<float>(std::max<int64_t>(own_cost, 1));
  for (int64_t taken = 0; taken < experts; ++taken) {
    const auto [expert, saved] = greedy.most(kept, nullptr, INT64_MAX);
    // A saving of nothing is never worth reading an expert for, however small the price.
    if (saved <= 0 || static_cast<float>(saved) < price * static_cast<float>(greedy.cost_of(expert))) return;
    kept[expert] = true;
    greedy.take(expert, saving);
  }
}

// Adds experts by descending summed worth, per cost, until `kept` holds what one row runs.
void fill_up(const float* worth, const Terms& terms, const Scores& scores, int64_t rows, bool* kept) {
  static thread_local Scratch scratch;
  const int64_t experts = scores.experts;
  // The largest power of two such that the sum of `rows` of them fits an int32.
  int bits = 30;
  while (rows << bits > INT32_MAX) --bits;
  int64_t missing = scores.top_k - size_of(kept, experts);
  int32_t* sums = scratch.get<int32_t>(2 * experts);
  int32_t* of_row = sums + experts;
  std::fill_n(sums, experts, 0);
  for (int64_t row = 0; row < scores.rows; ++row) {
    const float unit = static_cast<float>(1 << bits);
    for (int64_t e = 0; e < experts; ++e) {
      of_row[e] = static_cast<int32_t>(std::nearbyint(worth[row * experts + e] * unit));
    }
    weigh_by_say(terms, scores, row, experts, of_row);
    for (int64_t e = 0; e < experts; ++e) sums[e] += of_row[e];
  }
  for (; missing > 0; --missing) {
    int64_t best = -1;
    for (int64_t e = 0; e < experts; ++e) {
      if (!kept[e] && (best < 0 || ahead(sums[e], e, sums[best], best, terms))) best = e;
    }
    kept[best] = true;
  }
}

// Adds the free experts, and where all together cost more than `most`, keeps the part that retains most mass.
void hold_to(int64_t most, const float* worth, const Terms& terms, const Scores& scores, int64_t rows, bool* kept) {
  static thread_local Scratch scratch;
  const int64_t experts = scores.experts;
  for (int64_t e = 0; e < experts; ++e) kept[e] = kept[e] || (terms.free != nullptr && terms.free[e]);
  if (total_cost(kept, experts, terms) <= most) return;
  bool* candidates = scratch.get<bool>(experts);
  std::copy_n(kept, experts, candidates);
  begin_with_free(terms, experts, kept);
  cover(worth, 0, terms, scores, rows, candidates, most, kept);
}

}  // namespace

bool keep_experts(const InstructionSet& set, const Router& router, const KeepRule& rule, const Terms& terms,
                  const Scores& scores, int64_t rows, const bool* own, bool* kept) {
  using Kind = KeepRule::Kind;
  const int64_t experts = scores.experts, top_k = scores.top_k;
  const bool limited = rule.most < experts || terms.limit != nullptr;
  if ((rule.kind == Kind::kOwn && !limited) || scores.rows == 0) return false;
  const float* worth = nullptr;
  if (limited || rule.kind == Kind::kMassFloor || rule.kind == Kind::kWorthReading) worth = worths(set, router, scores);
  std::fill_n(kept, experts, false);
  int64_t own_cost = 0;
  if (rule.kind == Kind::kWorthReading) {
    first_choices(scores, top_k, kept);
    own_cost = total_cost(kept, experts, terms);
  }
  begin_with_free(terms, experts, kept);
  switch (rule.kind) {
    case Kind::kOwn: std::fill_n(kept, experts, true); break;
    case Kind::kFirstChoices: first_choices(scores, rule.first, kept); break;
    case Kind::kAffinityBins: affinity_bins(router, rule, terms, scores, kept); break;
    case Kind::kMassFloor: cover(worth, rule.slack, terms, scores, rows, nullptr, INT64_MAX, kept); break;
    case Kind::kWorthReading: worth_reading(worth, rule, terms, scores, rows, own_cost, kept); break;
  }
  if (rule.most < experts) hold_to(rule.most * terms.unit, worth, terms, scores, rows, kept);
  if (terms.limit != nullptr) hold_to(*terms.limit, worth, terms, scores, rows, kept);
  const int64_t all_own = total_cost(own, experts, terms);
  // Filling adds no fewer than are missing: where that is known to save nothing, worths need not be known.
  if (terms.cost == nullptr && std::max(size_of(kept, experts), top_k) >= all_own) return false;
  if (size_of(kept, experts) < top_k) {
    fill_up(worth == nullptr ? worths(set, router, scores) : worth, terms, scores, rows, kept);
  }
  return total_cost(kept, experts, terms) < all_own;
}

}  // namespace lynx
