#include "select_experts.h"

#include "rows.h"

namespace lynx {

void select_experts(const InstructionSet& set, const SelectExperts& op) {
  static thread_local Scratch sets_scratch, order_scratch, voters_scratch;
  Scores scores = score(op.router, op.logits, op.valid, op.rows, op.experts, op.top_k);
  bool* kept = sets_scratch.get<bool>(3 * op.experts);
  bool *own = kept + op.experts, *free = own + op.experts;
  std::fill_n(own, 2 * op.experts, false);
  for (int64_t row = 0; row < scores.rows; ++row) {
    const bool alone = op.own != nullptr && op.own[scores.places[row]];
    for (int64_t k = 0; k < op.run; ++k) {
      const int32_t expert = scores.own[row * op.top_k + k];
      own[expert] = true;
      free[expert] = free[expert] || alone;
    }
  }
  Terms terms = op.terms;
  if (op.own != nullptr) terms.free = free;
  bool restricted;
  if (op.own == nullptr && terms.say == nullptr) {
    restricted = keep_experts(set, op.router, op.rule, terms, scores, op.rows, own, kept);
  } else {
    bool* voters = voters_scratch.get<bool>(op.rows);
    for (int64_t t = 0; t < op.rows; ++t) {
      voters[t] = op.valid[t] && (op.own == nullptr || !op.own[t]) && (terms.say == nullptr || terms.say[t] > 0);
    }
    // Scores lie in memory that the next call takes back.
    const Scores voting = score(op.router, op.logits, voters, op.rows, op.experts, op.top_k);
    restricted = keep_experts(set, op.router, op.rule, terms, voting, op.rows, own, kept);
    scores = score(op.router, op.logits, op.valid, op.rows, op.experts, op.top_k);
  }
  const float* affinity = restricted && op.router.groups > 1 ? affinities(op.router, scores) : nullptr;
  std::fill_n(op.active, op.experts, false);
  for (int64_t row = 0; row < scores.rows; ++row) {
    int32_t* ids = op.ids + scores.places[row] * op.run;
    const bool moves = restricted && (op.own == nullptr || !op.own[scores.places[row]]);
    if (moves) best_of_kept(op.router, scores, affinity, kept, row, op.run, ids);
    else std::copy_n(scores.own + row * op.top_k, op.run, ids);
    weigh(set, op.router, scores, row, ids, op.run, moves ? kept : nullptr, op.weights + scores.places[row] * op.run);
    for (int64_t k = 0; k < op.run; ++k) op.active[ids[k]] = true;
  }
  // A row that is not valid gets experts that other rows read anyway, and weights of 0.
  int32_t* order = order_scratch.get<int32_t>(op.experts);
  int64_t found = 0;
  for (const bool wanted : {true, false}) {
    for (int64_t e = 0; e < op.experts; ++e) {
      if (op.active[e] == wanted) order[found++] = static_cast<int32_t>(e);
    }
  }
  for (int64_t t = 0; t < op.rows; ++t) {
    if (op.valid[t]) continue;
    std::copy_n(order, op.run, op.ids + t * op.run);
    std::fill_n(op.weights + t * op.run, op.run, 0.0f);
  }
}

}  // namespace lynx
