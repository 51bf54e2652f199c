#include "keep_sets.h"

#include <cmath>
#include <numeric>
#include <utility>

#include "rows.h"

namespace lynx {
namespace {

// A probability of 1 in the fixed point of `cover`. A sum over a row's experts still fits an int32.
constexpr int32_t kUnit = 1 << 30;

// The number of bits of the largest place in a batch of `rows` rows.
int bits_of(int64_t rows) {
  int bits = 0;
  while ((rows - 1) >> bits) ++bits;
  return bits;
}

int64_t size_of(const bool* experts, int64_t count) { return std::count(experts, experts + count, true); }

void first_choices(const Scores& scores, int64_t first, bool* kept) {
  for (int64_t row = 0; row < scores.rows; ++row) {
    for (int64_t k = 0; k < std::min(first, scores.top_k); ++k) kept[scores.own[row * scores.top_k + k]] = true;
  }
}

// Counts of rows for each expert and bin. The counts of one expert are the digits of a number, from the best bin on, so
// that comparing the numbers compares the counts.
class Votes {
 public:
  Votes(int64_t experts, int64_t bins, int64_t rows) : bins_(bins) {
    static thread_local Scratch scratch;
    const int bits = bits_of(rows + 1), digits = 64 / bits;
    size_ = (bins + digits - 1) / digits;
    for (int bin = 0; bin < bins; ++bin) {
      word_[bin] = bin / digits;
      one_[bin] = uint64_t{1} << bits * (digits - 1 - bin % digits);
    }
    words_ = scratch.get<uint64_t>(experts * size_);
    std::fill_n(words_, experts * size_, 0);
  }

  void add(int64_t expert, int64_t bin) {
    if (bin < bins_) words_[expert * size_ + word_[bin]] += one_[bin];
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
// each bin, compared from the best bin on. This ranks experts as the sum over B rows of B^bin does, because one row in
// a bin outweighs all rows in the bins below it.
void affinity_bins(const Router& router, const KeepRule& rule, const Scores& scores, bool* kept) {
  static thread_local Scratch key_scratch, order_scratch;
  const int64_t experts = scores.experts;
  const float* affinity = affinities(router, scores);
  // A key is the bin times the number of experts, plus a rank less than that number: a whole number below 2^24.
  float* keys = key_scratch.get<float>((scores.rows + 1) * experts);
  float* popularity = keys + scores.rows * experts;
  Votes votes(experts, rule.votes, scores.rows);
  for (int64_t row = 0; row < scores.rows; ++row) {
    const float* of_row = affinity + row * experts;
    const float top = *std::max_element(of_row, of_row + experts);
    for (int64_t e = 0; e < experts; ++e) {
      const float bins = -std::ceil(rule.alpha * (of_row[e] - top));
      int64_t depth = bins < static_cast<float>(rule.lowest) ? static_cast<int64_t>(bins) : rule.lowest;
      // An expert that the row may not choose lies one bin below the lowest, where no votes are counted.
      if (of_row[e] <= kLowest) depth = rule.lowest + 1;
      votes.add(e, depth);
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
  Greedy(const T* values, const Scores& scores)
      : values_(values), rows_(scores.rows), experts_(scores.experts), top_k_(scores.top_k) {
    static thread_local Scratch best_scratch, gain_scratch;
    bests_ = best_scratch.get<T>(rows_ * top_k_);
    gains_ = gain_scratch.get<int32_t>((rows_ + 1) * experts_);
    total_ = gains_ + rows_ * experts_;
    std::fill_n(bests_, rows_ * top_k_, T{0});
    std::fill_n(gains_, (rows_ + 1) * experts_, 0);
  }

  T least(int64_t row) const { return *place(row); }
  T sum(int64_t row) const { return std::accumulate(bests_ + row * top_k_, bests_ + (row + 1) * top_k_, T{0}); }

  // fill(row, gains) computes the gain of each expert in one row.
  template <class Fill>
  void update(int64_t row, const Fill& fill) {
    int32_t* gains = gains_ + row * experts_;
    for (int64_t e = 0; e < experts_; ++e) total_[e] -= gains[e];
    fill(row, gains);
    for (int64_t e = 0; e < experts_; ++e) total_[e] += gains[e];
  }

  // The candidate outside of `kept` with the largest gain, and that gain. Ties go to the lowest expert. If `candidates`
  // is null, all experts are candidates.
  std::pair<int64_t, int32_t> most(const bool* kept, const bool* candidates) const {
    std::pair<int64_t, int32_t> best{0, -1};
    for (int64_t e = 0; e < experts_; ++e) {
      if (!kept[e] && (candidates == nullptr || candidates[e]) && total_[e] > best.second) best = {e, total_[e]};
    }
    return best;
  }

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
  int64_t rows_, experts_, top_k_;
  T* bests_;
  int32_t *gains_, *total_;
};

// Keeps candidates by descending gain until every row has its own mass less a share `slack` of it, or `most` are kept.
// Masses are in fixed point.
void cover(const float* worth, float slack, const Scores& scores, int64_t rows, const bool* candidates, int64_t most,
           bool* kept) {
  static thread_local Scratch fixed_scratch, floor_scratch;
  const int64_t experts = scores.experts, top_k = scores.top_k;
  int32_t* fixed = fixed_scratch.get<int32_t>(scores.rows * experts);
  int32_t* floors = floor_scratch.get<int32_t>(scores.rows);
  for (int64_t at = 0; at < scores.rows * experts; ++at) fixed[at] = static_cast<int32_t>(worth[at] * kUnit);
  Greedy<int32_t> greedy(fixed, scores);
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
    greedy.update(row, gain);
  }
  for (int64_t taken = 0; taken < most && short_rows > 0; ++taken) {
    const int64_t expert = greedy.most(kept, candidates).first;
    kept[expert] = true;
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

// Keeps experts by descending saving while the next one saves at least the price. Savings are in fixed point.
void worth_reading(const float* worth, const KeepRule& rule, const Scores& scores, int64_t rows, int64_t own_experts,
                   bool* kept) {
  static thread_local Scratch scratch, fixed_scratch;
  const int64_t experts = scores.experts, top_k = scores.top_k;
  // One row's saving is at most 2, so that the sum over the rows fits an int32.
  const float unit = static_cast<float>(1 << (29 - bits_of(rows)));
  float* weights = scratch.get<float>(2 * scores.rows * experts);
  float* squares = weights + scores.rows * experts;
  int32_t* fixed = fixed_scratch.get<int32_t>(experts);
  std::fill_n(squares, scores.rows * experts, 0.0f);
  Greedy<float> greedy(weights, scores);
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
    total = std::accumulate(fixed, fixed + experts, total);
    greedy.update(row, saving);
  }
  const float price = rule.share * static_cast<float>(total) / static_cast<float>(std::max<int64_t>(own_experts, 1));
  for (int64_t taken = 0; taken < experts; ++taken) {
    const auto [expert, saved] = greedy.most(kept, nullptr);
    // An expert that saves nothing is not read, however small the price.
    if (saved <= 0 || static_cast<float>(saved) < price) return;
    kept[expert] = true;
    greedy.take(expert, saving);
  }
}

// Adds experts by descending sum of their worths over the rows, until `kept` holds as many as one row runs.
void fill_up(const float* worth, const Scores& scores, int64_t rows, bool* kept) {
  static thread_local Scratch scratch;
  const int64_t experts = scores.experts;
  // The largest power of two such that the sum of `rows` of them fits an int32.
  int bits = 30;
  while (rows << bits > INT32_MAX) --bits;
  int64_t missing = scores.top_k - size_of(kept, experts);
  int32_t* sums = scratch.get<int32_t>(experts);
  std::fill_n(sums, experts, 0);
  for (int64_t row = 0; row < scores.rows; ++row) {
    const float unit = static_cast<float>(1 << bits);
    for (int64_t e = 0; e < experts; ++e) {
      sums[e] += static_cast<int32_t>(std::nearbyint(worth[row * experts + e] * unit));
    }
  }
  for (; missing > 0; --missing) {
    for (int64_t e = 0; e < experts; ++e) sums[e] = kept[e] ? -1 : sums[e];
    kept[std::max_element(sums, sums + experts) - sums] = true;
  }
}

}  // namespace

bool keep_experts(const InstructionSet& set, const Router& router, const KeepRule& rule, const Scores& scores,
                  int64_t rows, bool* kept) {
  using Kind = KeepRule::Kind;
  const int64_t experts = scores.experts;
  const bool limited = rule.most < experts;
  if ((rule.kind == Kind::kOwn && !limited) || scores.rows == 0) return false;
  std::fill_n(kept, experts, false);
  first_choices(scores, scores.top_k, kept);
  const int64_t own_experts = size_of(kept, experts);
  std::fill_n(kept, experts, false);
  const float* worth = nullptr;
  if (limited || rule.kind == Kind::kMassFloor || rule.kind == Kind::kWorthReading) worth = worths(set, router, scores);
  switch (rule.kind) {
    case Kind::kOwn: std::fill_n(kept, experts, true); break;
    case Kind::kFirstChoices: first_choices(scores, rule.first, kept); break;
    case Kind::kAffinityBins: affinity_bins(router, rule, scores, kept); break;
    case Kind::kMassFloor: cover(worth, rule.slack, scores, rows, nullptr, experts, kept); break;
    case Kind::kWorthReading: worth_reading(worth, rule, scores, rows, own_experts, kept); break;
  }
  if (size_of(kept, experts) > rule.most) {
    static thread_local Scratch scratch;
    bool* candidates = scratch.get<bool>(experts);
    std::copy_n(kept, experts, candidates);
    std::fill_n(kept, experts, false);
    cover(worth, 0, scores, rows, candidates, rule.most, kept);
  }
  if (std::max(size_of(kept, experts), scores.top_k) >= own_experts) return false;
  if (size_of(kept, experts) < scores.top_k) {
    fill_up(worth == nullptr ? worths(set, router, scores) : worth, scores, rows, kept);
  }
  return true;
}

}  // namespace lynx
