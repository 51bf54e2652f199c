#pragma once

#include <cfloat>

#include "products.h"

namespace lynx {

// How a model's router turns the logits of a row into experts and their weights.
struct Router {
  enum class Scoring { kSoftmax, kSigmoid, kSparseMixer } scoring;
  bool renormalize, unit_weights;
  float scale;
  int64_t groups, groups_kept;
  bool two_best;      // a group's score is the sum of its two largest gates, instead of the largest
  const float* bias;  // [experts], added to sigmoid gates when experts are chosen, or null
};

// The lowest logit. The difference of any two logits is finite. An expert that a row may not choose has this logit or
// less.
constexpr float kLowest = -FLT_MAX / 2;

// The valid rows of a batch, scored by a router. Arrays are [rows, experts] unless stated otherwise. Their memory
// belongs to the calling thread, and its next call of `score` overwrites them.
struct Scores {
  int64_t rows, experts, top_k;
  const int32_t* places;  // [rows], the row's place in the batch
  const float* logits;    // finite, without -0.0
  const float* choice;    // the score by which experts are chosen
  const float* open;      // the same, but minus infinity in groups that the row may not use
  const int32_t* own;     // [rows, top_k], the experts that the model itself chooses, best first
};

Scores score(const Router& router, const float* logits, const bool* valid, int64_t rows, int64_t experts,
             int64_t top_k);

// [rows, experts]: scores in the order of `choice`, whose differences are in nats. kLowest or less for an expert that
// the row may not choose.
const float* affinities(const Router& router, const Scores& scores);

// [rows, experts]: each expert's gate divided by the sum of all gates, and 0 outside of the row's groups. With a
// selection bias, the worth of an expert that is not the row's own is at most that of any expert that the row prefers
// to it.
const float* worths(const InstructionSet& set, const Router& router, const Scores& scores);

// The `count` best experts of a row among `kept`, by descending choice. Experts that the row may not use come last.
void best_of_kept(const Router& router, const Scores& scores, const float* affinity, const bool* kept, int64_t row,
                  int64_t count, int32_t* ids);

// The weights of `count` experts of a row. `kept` is null if these are the first of the model's own experts.
void weigh(const InstructionSet& set, const Router& router, const Scores& scores, int64_t row, const int32_t* ids,
           int64_t count, const bool* kept, float* weights);

// The places of the `count` largest values, in descending order. Ties go to the lowest place.
void best_places(const float* values, int64_t size, int64_t count, int32_t* places);

}  // namespace lynx
