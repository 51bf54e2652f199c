#pragma once

#include "router.h"

namespace lynx {

// Which experts a batch may use: the rules of select_experts, in rules.py.
struct KeepRule {
  enum class Kind { kOwn, kFirstChoices, kAffinityBins, kMassFloor, kWorthReading } kind;
  int64_t first;          // kFirstChoices: of each row's experts
  float alpha;            // kAffinityBins: bins a nat,
  int64_t lowest, votes;  // the lowest bin is -lowest, and so many bins from the best on are counted
  float slack;            // kMassFloor: the share of its own mass that a row may lose
  float share;            // kWorthReading: of what an expert saves on average
  int64_t most;           // of the experts kept, by any rule
};

// Marks in `kept` [experts] those that the batch of `rows` may use; returns false where that is no fewer than its valid
// rows' own best touch.
bool keep_experts(const InstructionSet& set, const Router& router, const KeepRule& rule, const Scores& scores,
                  int64_t rows, bool* kept);

}  // namespace lynx
