#include "select_experts.h"

#include <cfloat>
#include <cmath>

#include "rows.h"

namespace lynx {
namespace {

// Of a logit: so that the difference of any two is finite.
constexpr float kLowest = -FLT_MAX / 2;
// Beside a sum of sigmoids, which may all vanish.
constexpr float kSigmoidGuard = 1e-20f;

// The places of the `count` largest, descending; ties to the lowest place.
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

// The weights that the model gives its own best experts, and their sum.
float own_weights(const InstructionSet& set, const SelectExperts& op, const float* logits, const int32_t* ids,
                  float* spare, float* weights) {
  const float top = logits[ids[0]];
  float total = 1;
  if (!op.sigmoid && !op.renormalize) {
    std::memcpy(spare, logits, 4 * op.experts);
    total = set.exponentials(spare, op.experts, top);
  }
  float sum = 0;
  for (int64_t k = 0; k < op.top_k; ++k) {
    const float logit = logits[ids[k]];
    weights[k] = op.sigmoid ? 1 / (1 + std::exp(-logit)) : std::exp(logit - top) / total;
    sum += weights[k];
  }
  if (op.renormalize) {
    const float by = op.sigmoid ? sum + kSigmoidGuard : sum;
    for (int64_t k = 0; k < op.top_k; ++k) weights[k] /= by;
    sum /= by;
  }
  for (int64_t k = 0; k < op.top_k; ++k) weights[k] *= op.scale;
  return sum * op.scale;
}

// The first `run` of a row's experts share out what the model gave all of them.
void share_out(const SelectExperts& op, const float* logits, const int32_t* ids, float total, float* weights) {
  const auto log_gate = [&](int64_t k) {
    const float logit = logits[ids[k]];
    return op.sigmoid ? std::fmin(logit, 0.0f) - std::log1p(std::exp(-std::fabs(logit))) : logit;
  };
  float sum = 0;
  for (int64_t k = 0; k < op.run; ++k) sum += weights[k] = std::exp(log_gate(k) - log_gate(0));
  for (int64_t k = 0; k < op.run; ++k) weights[k] *= total / sum;
}

}  // namespace

void select_experts(const InstructionSet& set, const SelectExperts& op) {
  static thread_local Scratch scratch, chosen_scratch;
  float* logits = scratch.get<float>(2 * op.experts + op.top_k);
  float *spare = logits + op.experts, *weights = spare + op.experts;
  int32_t* ids = chosen_scratch.get<int32_t>(op.experts);
  std::memset(op.active, 0, op.experts);
  for (int64_t t = 0; t < op.rows; ++t) {
    if (!op.valid[t]) continue;
    for (int64_t e = 0; e < op.experts; ++e) {
      // The sum has no -0.0.
      logits[e] = std::clamp(op.logits[t * op.experts + e], kLowest, -kLowest) + 0.0f;
    }
    best_places(logits, op.experts, op.top_k, ids);
    if (op.unit_weights) {
      std::fill_n(weights, op.run, 1.0f);
    } else {
      const float total = own_weights(set, op, logits, ids, spare, weights);
      if (op.run < op.top_k) share_out(op, logits, ids, total, weights);
    }
    for (int64_t k = 0; k < op.run; ++k) {
      op.ids[t * op.run + k] = ids[k];
      op.weights[t * op.run + k] = weights[k];
      op.active[ids[k]] = true;
    }
  }
  // A row that does not count repeats experts that are read anyway.
  int64_t found = 0;
  for (const bool wanted : {true, false}) {
    for (int64_t e = 0; e < op.experts; ++e) {
      if (op.active[e] == wanted) ids[found++] = static_cast<int32_t>(e);
    }
  }
  for (int64_t t = 0; t < op.rows; ++t) {
    if (op.valid[t]) continue;
    std::copy_n(ids, op.run, op.ids + t * op.run);
    std::fill_n(op.weights + t * op.run, op.run, 0.0f);
  }
}

}  // namespace lynx
