#include "router.h"

#include <cmath>
#include <numeric>

#include "rows.h"

namespace lynx {
namespace {

// Added to a sum of sigmoids, because all of them may be 0.
constexpr float kSigmoidGuard = 1e-20f;
// SparseMixer (arXiv 2409.12136): a logit is far from the largest if their difference is more than twice this share of
// it.
constexpr float kSparseMixerEps = 0.01f;

float sigmoid(float logit) { return 1 / (1 + std::exp(-logit)); }

float log_gate(const Router& router, float logit) {
  if (router.scoring != Router::Scoring::kSigmoid) return logit;
  return std::fmin(logit, 0.0f) - std::log1p(std::exp(-std::fabs(logit)));
}

// A group's score: the largest of its values, or the sum of the two largest.
float group_score(const Router& router, const float* values, int64_t size) {
  if (!router.two_best) return *std::max_element(values, values + size);
  float first = std::fmax(values[0], values[1]), second = std::fmin(values[0], values[1]);
  for (int64_t e = 2; e < size; ++e) {
    second = std::fmax(second, std::fmin(first, values[e]));
    first = std::fmax(first, values[e]);
  }
  return first + second;
}

// The gates of one row, by which its groups are scored.
void gates_of_row(const Router& router, const float* logits, int64_t experts, float* gates) {
  const float top = *std::max_element(logits, logits + experts);
  float total = 0;
  for (int64_t e = 0; e < experts; ++e) {
    gates[e] = router.scoring == Router::Scoring::kSigmoid ? sigmoid(logits[e]) : std::exp(logits[e] - top);
    total += gates[e];
  }
  if (router.scoring == Router::Scoring::kSigmoid) return;
  for (int64_t e = 0; e < experts; ++e) gates[e] /= total;
}

// Copies `choice` to `open`, with minus infinity in the groups that the row may not use.
void close_groups(const Router& router, const float* logits, const float* choice, int64_t experts, float* open) {
  static thread_local Scratch scratch, ids_scratch;
  float* spare = scratch.get<float>(experts + router.groups);
  float* of_group = spare + experts;
  int32_t* best = ids_scratch.get<int32_t>(router.groups);
  const int64_t size = experts / router.groups;
  const float* values = choice;
  if (router.two_best && router.bias == nullptr) {
    gates_of_row(router, logits, experts, spare);
    values = spare;
  }
  for (int64_t g = 0; g < router.groups; ++g) of_group[g] = group_score(router, values + g * size, size);
  best_places(of_group, router.groups, router.groups_kept, best);
  std::fill_n(open, experts, -INFINITY);
  for (int64_t i = 0; i < router.groups_kept; ++i) std::copy_n(choice + best[i] * size, size, open + best[i] * size);
}

// The weight of each chosen expert: its softmax among the experts of `kept` (all if null) that were not chosen before
// it and whose logits are close to its own.
void sparse_mixer(const float* logits, int64_t experts, const int32_t* ids, int64_t count, const bool* kept,
                  float* weights) {
  for (int64_t k = 0; k < count; ++k) {
    const float top = logits[ids[k]];
    float sum = 0;
    for (int64_t e = 0; e < experts; ++e) {
      const float size = std::fmax(std::fabs(logits[e]), top);
      const bool far = (top - logits[e]) / (size > 0 ? size : 1.0f) > 2 * kSparseMixerEps;
      if (far || (kept != nullptr && !kept[e]) || std::find(ids, ids + k, static_cast<int32_t>(e)) != ids + k) continue;
      sum += std::exp(logits[e] - top);
    }
    weights[k] = 1 / sum;
  }
}

// The weights that the model gives the row's own experts. Returns their sum.
float own_weights(const InstructionSet& set, const Router& router, const Scores& scores, int64_t row, float* weights) {
  const float* logits = scores.logits + row * scores.experts;
  const int32_t* own = scores.own + row * scores.top_k;
  const bool sigmoids = router.scoring == Router::Scoring::kSigmoid;
  float total = 1;
  if (router.scoring == Router::Scoring::kSparseMixer) {
    sparse_mixer(logits, scores.experts, own, scores.top_k, nullptr, weights);
  } else {
    float top = logits[own[0]];
    if (!sigmoids && !router.renormalize) {
      // The largest logit may lie in a group that the row may not use.
      if (router.groups > 1) top = *std::max_element(logits, logits + scores.experts);
      static thread_local Scratch scratch;
      float* spare = scratch.get<float>(scores.experts);
      std::memcpy(spare, logits, 4 * scores.experts);
      total = set.exponentials(spare, scores.experts, top);
    }
    for (int64_t k = 0; k < scores.top_k; ++k) {
      weights[k] = sigmoids ? sigmoid(logits[own[k]]) : std::exp(logits[own[k]] - top) / total;
    }
  }
  float sum = std::accumulate(weights, weights + scores.top_k, 0.0f);
  if (router.renormalize) {
    const float by = sigmoids ? sum + kSigmoidGuard : sum;
    for (int64_t k = 0; k < scores.top_k; ++k) weights[k] /= by;
    sum /= by;
  }
  for (int64_t k = 0; k < scores.top_k; ++k) weights[k] *= router.scale;
  return sum * router.scale;
}

// With a selection bias, the worth of an expert that is not the row's own is at most that of any expert that the row
// prefers to it.
void cap_by_preferred(const Scores& scores, int64_t row, float* worth) {
  static thread_local Scratch scratch;
  int32_t* order = scratch.get<int32_t>(scores.experts);
  const float* open = scores.open + row * scores.experts;
  std::iota(order, order + scores.experts, 0);
  std::stable_sort(order, order + scores.experts, [&](int32_t one, int32_t other) { return open[one] > open[other]; });
  float cap = INFINITY;
  for (int64_t rank = 0; rank < scores.experts; ++rank) {
    cap = std::fmin(cap, worth[order[rank]]);
    if (rank >= scores.top_k) worth[order[rank]] = cap;
  }
}

}  // namespace

void best_places(const float* values, int64_t size, int64_t count, int32_t* places) {
  for (int64_t place = 0, found = 0; place < size; ++place) {
    int64_t at = found;
    while (at > 0 && values[place] > values[places[at - 1]]) --at;
    if (at == count) continue;
    found = std::min(found + 1, count);
    for (int64_t later = found - 1; later > at; --later) places[later] = places[later - 1];
    places[at] = static_cast<int32_t>(place);
  }
}

Scores score(const Router& router, const float* logits, const bool* valid, int64_t rows, int64_t experts,
             int64_t top_k) {
  static thread_local Scratch places_scratch, logits_scratch, choice_scratch, open_scratch, own_scratch;
  int32_t* places = places_scratch.get<int32_t>(rows);
  int64_t count = 0;
  for (int64_t t = 0; t < rows; ++t) {
    if (valid[t]) places[count++] = static_cast<int32_t>(t);
  }
  float* clean = logits_scratch.get<float>(count * experts);
  for (int64_t row = 0; row < count; ++row) {
    const float* from = logits + places[row] * experts;
    for (int64_t e = 0; e < experts; ++e) {
      // Adding 0.0 turns -0.0 into 0.0.
      clean[row * experts + e] = std::clamp(from[e], kLowest, -kLowest) + 0.0f;
    }
  }
  const float *choice = clean, *open = clean;
  if (router.bias != nullptr) {
    float* biased = choice_scratch.get<float>(count * experts);
    for (int64_t at = 0; at < count * experts; at += experts) {
      for (int64_t e = 0; e < experts; ++e) biased[at + e] = sigmoid(clean[at + e]) + router.bias[e];
    }
    choice = open = biased;
  }
  if (router.groups > 1) {
    float* some = open_scratch.get<float>(count * experts);
    for (int64_t at = 0; at < count * experts; at += experts) {
      close_groups(router, clean + at, choice + at, experts, some + at);
    }
    open = some;
  }
  int32_t* own = own_scratch.get<int32_t>(count * top_k);
  for (int64_t row = 0; row < count; ++row) best_places(open + row * experts, experts, top_k, own + row * top_k);
  return {count, experts, top_k, places, clean, choice, open, own};
}

const float* affinities(const Router& router, const Scores& scores) {
  if (router.bias == nullptr && router.groups == 1) return scores.logits;
  static thread_local Scratch scratch;
  float* affinity = scratch.get<float>(scores.rows * scores.experts);
  for (int64_t row = 0; row < scores.rows; ++row) {
    // The logit of the gate which, with the bias of the row's first expert, would give this choice.
    const float shift = router.bias == nullptr ? 0 : router.bias[scores.own[row * scores.top_k]];
    for (int64_t e = 0, at = row * scores.experts; e < scores.experts; ++e, ++at) {
      if (scores.open[at] == -INFINITY) {
        affinity[at] = kLowest;
      } else if (router.bias == nullptr) {
        affinity[at] = scores.logits[at];
      } else {
        const float gate = std::clamp(scores.choice[at] - shift, FLT_MIN, 1 - FLT_EPSILON / 2);
        affinity[at] = std::log(gate) - std::log1p(-gate);
      }
    }
  }
  return affinity;
}

const float* worths(const InstructionSet& set, const Router& router, const Scores& scores) {
  static thread_local Scratch scratch;
  float* worth = scratch.get<float>(scores.rows * scores.experts);
  for (int64_t row = 0; row < scores.rows; ++row) {
    const float* logits = scores.logits + row * scores.experts;
    float* of_row = worth + row * scores.experts;
    for (int64_t e = 0; e < scores.experts; ++e) of_row[e] = log_gate(router, logits[e]);
    const float total = set.exponentials(of_row, scores.experts, *std::max_element(of_row, of_row + scores.experts));
    for (int64_t e = 0; e < scores.experts; ++e) of_row[e] /= total;
    if (router.groups > 1) {
      const float* open = scores.open + row * scores.experts;
      for (int64_t e = 0; e < scores.experts; ++e) of_row[e] = open[e] == -INFINITY ? 0 : of_row[e];
    }
    if (router.bias != nullptr) cap_by_preferred(scores, row, of_row);
  }
  return worth;
}

void best_of_kept(const Router& router, const Scores& scores, const float* affinity, const bool* kept, int64_t row,
                  int64_t count, int32_t* ids) {
  static thread_local Scratch scratch;
  float* values = scratch.get<float>(scores.experts);
  const int64_t first = row * scores.experts;
  int64_t found = 0;
  // A second pass takes experts that the row may not use, if too few others are kept.
  for (const bool usable : {true, false}) {
    int64_t some = 0;
    for (int64_t e = 0; e < scores.experts; ++e) {
      const bool may = router.groups == 1 || affinity[first + e] > kLowest;
      values[e] = kept[e] && may == usable ? scores.choice[first + e] : -INFINITY;
      some += kept[e] && may == usable;
    }
    some = std::min(some, count - found);
    best_places(values, scores.experts, some, ids + found);
    found += some;
    if (found == count) return;
  }
}

void weigh(const InstructionSet& set, const Router& router, const Scores& scores, int64_t row, const int32_t* ids,
           int64_t count, const bool* kept, float* weights) {
  if (router.unit_weights) {
    std::fill_n(weights, count, 1.0f);
    return;
  }
  float total = router.scale;
  const bool own = kept == nullptr && count == scores.top_k;
  if (own || router.scoring != Router::Scoring::kSoftmax || !router.renormalize) {
    static thread_local Scratch scratch;
    total = own_weights(set, router, scores, row, own ? weights : scratch.get<float>(scores.top_k));
  }
  if (own) return;
  const float* logits = scores.logits + row * scores.experts;
  if (router.scoring == Router::Scoring::kSparseMixer) {
    sparse_mixer(logits, scores.experts, ids, count, kept, weights);
  } else {
    float top = -INFINITY;
    for (int64_t k = 0; k < count; ++k) top = std::fmax(top, weights[k] = log_gate(router, logits[ids[k]]));
    for (int64_t k = 0; k < count; ++k) weights[k] = std::exp(weights[k] - top);
  }
  const float sum = std::accumulate(weights, weights + count, 0.0f);
  for (int64_t k = 0; k < count; ++k) weights[k] *= total / sum;
}

}  // namespace lynx
