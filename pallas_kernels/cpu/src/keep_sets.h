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

// Marks in `kept` [experts] the experts that a batch of `rows` rows may use. Returns false if they are no fewer than
// the experts that its valid rows would choose themselves.
bool keep_experts(const InstructionSet& set, const Router& router, const KeepRule& rule, const Scores& scores,
                  int64_t rows, bool* kept);

}  // namespace lynx
