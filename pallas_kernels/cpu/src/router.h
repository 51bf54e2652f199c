#pragma once

#include <cfloat>

#include "products.h"

namespace lynx {

// How a model's router turns a row's logits into a choice of experts and their weights: `Router` of select_experts.
struct Router {
  enum class Scoring { kSoftmax, kSigmoid, kSparseMixer } scoring;
  bool renormalize, unit_weights;
  float scale;
  int64_t groups, groups_kept;
  bool two_best;      // a group's score is the sum of its two largest gates, not its largest
  const float* bias;  // [experts], added to sigmoid gates where experts are chosen; or null
};

// Of a logit: so that the difference of any two is finite. What a row may not choose has it, or less.
constexpr float kLowest = -FLT_MAX / 2;

// Rows of a batch under a router, those that do not count left out. Arrays are [rows, experts] except where it says
// otherwise, in memory of the calling thread that the next call of `score` takes back.
struct Scores {
  int64_t rows, experts, top_k;
  const int32_t* places;  // [rows], in the batch
  const float* logits;    // finite, no -0.0
  const float* choice;    // what experts are chosen by
  const float* open;      // the same, minus infinity in groups that the row may not use
  const int32_t* own;     // [rows, top_k], the experts that the model chooses, best first
};

Scores score(const Router& router, const float* logits, const bool* valid, int64_t rows, int64_t experts,
             int64_t top_k);

// How far apart experts lie in the order of the choice, in nats; kLowest or less of those that a row may not choose.
const float* affinities(const Router& router, const Scores& scores);

// What experts are worth to a row: gates as shares of all, none outside of its groups, and under a bias none but the
// own ones' above that of an expert that the row prefers.
const float* worths(const InstructionSet& set, const Router& router, const Scores& scores);

// The `count` experts of a row among `kept`, by descending choice; those that it may not use after all others.
void best_of_kept(const Router& router, const Scores& scores, const float* affinity, const bool* kept, int64_t row,
                  int64_t count, int32_t* ids);

// Weights of `count` experts of a row. `kept` is null where these are the model's own first.
void weigh(const InstructionSet& set, const Router& router, const Scores& scores, int64_t row, const int32_t* ids,
           int64_t count, const bool* kept, float* weights);

// The places of the `count` largest, descending; ties to the lowest place.
void best_places(const float* values, int64_t size, int64_t count, int32_t* places);

}  // namespace lynx
