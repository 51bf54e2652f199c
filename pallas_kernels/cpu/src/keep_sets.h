#pragma once

#include "router.h"

namespace lynx {

// The rule by which a batch keeps experts.
struct KeepRule {
  enum class Kind { kOwn, kFirstChoices, kAffinityBins, kMassFloor, kWorthReading } kind;
  int64_t first;          // kFirstChoices: each row keeps so many of its own experts
  float alpha;            // kAffinityBins: bins per nat
  int64_t lowest, votes;  // kAffinityBins: the lowest bin is -lowest, and votes are counted in the best `votes` bins
  float slack;            // kMassFloor: the share of its own mass that a row may lose
  float share;            // kWorthReading: the price of an expert, as a share of an expert's average saving
  int64_t most;           // any rule: experts kept at most
};

// On what terms rows and experts enter a keep set; each array is null where all are alike (terms.py).
struct Terms {
  const int32_t* say = nullptr;    // [rows of the batch], a row's weight in 256ths of the largest
  const int32_t* cost = nullptr;   // [experts], what reading one costs, `unit` for the dearest
  const bool* free = nullptr;      // [experts], read anyway
  const int32_t* limit = nullptr;  // the most that the batch may read, in the units of `cost`
  int64_t unit = 1;
};

// Marks in `kept` [experts] those that the batch of `rows` may use. `scores` are of the rows that have a say. Returns
// false where reading those costs no less than reading `own` [experts], what all valid rows run by themselves.
bool keep_experts(const InstructionSet& set, const Router& router, const KeepRule& rule, const Terms& terms,
                  const Scores& scores, int64_t rows, const bool* own, bool* kept);

}  // namespace lynx
