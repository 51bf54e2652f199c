// Compares the CPU operations with slow statements of them, on random shapes and under a sanitizer: with every
// instruction set of this processor, on one to three threads, for two callers at once.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "attention.h"
#include "chunk_attention_case.h"
#include "expert_ffn.h"
#include "greedy_token.h"
#include "quantize_case.h"
#include "random_numbers.h"
#include "rms_norm.h"
#include "row_matmul.h"
#include "select_experts.h"
#include "take_rows.h"

namespace {

using namespace lynx;

// Rounds a row as the products do: to bfloat16 if the weight is bfloat16, and to 8 bits with a scale for every 32
// values if it has four bits.
void round_row(float* x, int64_t count, WeightType type) {
  if (type == WeightType::kBfloat16) {
    std::vector<uint16_t> bits(count);
    instruction_set(0)->narrow(x, count, bits.data());
    instruction_set(0)->widen(bits.data(), count, x);
  }
  for (int64_t from = 0; type == WeightType::kInt4 && from < count; from += 32) {
    const int64_t to = std::min(count, from + 32);
    float largest = 0;
    for (int64_t i = from; i < to; ++i) largest = std::fmax(largest, std::fabs(x[i]));
    for (int64_t i = from; largest > 0 && i < to; ++i) x[i] = std::round(x[i] * (127 / largest)) * largest / 127;
  }
}

void check_row_matmul(Random& random, const InstructionSet& set, WeightType type) {
  // Sometimes more rows than fit the first-level cache, with so many inputs that they are taken in slices.
  const bool long_rows = random.between(0, 11) == 0;
  const int64_t rows = long_rows ? random.between(19, 40) : random.rows();
  const int64_t inner = long_rows ? random.between(700, 4500) : random.between(1, 150);
  const int64_t outs = random.between(1, long_rows || random.between(0, 3) > 0 ? 40 : 300);
  const Numbers weight(random, type, 1, outs, inner);
  std::vector<float> x(rows * inner), y(rows * outs), bias(outs);
  for (float& value : x) value = random.normal();
  for (float& value : bias) value = random.normal();
  RowMatmul op{};
  op.rows = rows;
  op.used = rows - rows / 3;
  op.inner = inner;
  op.x = {x.data(), false};
  op.products.push_back({weight.weight(), outs, bias.data(), {y.data(), false}});
  row_matmul(set, op);
  for (int64_t i = op.used * outs; i < rows * outs; ++i) check(y[i] == 0, "an unused row of row_matmul", set.name);
  for (int64_t t = 0; t < op.used; ++t) {
    round_row(x.data() + t * inner, inner, type);
    for (int64_t o = 0; o < outs; ++o) {
      double sum = bias[o], size = 1;
      for (int64_t i = 0; i < inner; ++i) {
        const double product = static_cast<double>(x[t * inner + i]) * weight.values[o * inner + i];
        sum += product;
        size += std::fabs(product);
      }
      check(std::fabs(y[t * outs + o] - sum) <= 2e-4 * size, "row_matmul", set.name);
    }
  }
}

// The hidden values of one row `x` in expert `e`, which has `f` of them.
std::vector<float> hidden_values(const float* x, const Numbers& gate_up, int64_t e, int64_t f, int64_t width) {
  std::vector<float> hidden(f), row(x, x + width);
  round_row(row.data(), width, gate_up.type);
  for (int64_t o = 0; o < f; ++o) {
    double gate = 0, up = 0;
    for (int64_t i = 0; i < width; ++i) {
      const double value = row[i];
      gate += value * gate_up.values[(e * 2 * f + o) * width + i];
      up += value * gate_up.values[(e * 2 * f + f + o) * width + i];
    }
    hidden[o] = static_cast<float>(gate / (1 + std::exp(-gate)) * up);
  }
  round_row(hidden.data(), f, gate_up.type);
  return hidden;
}

void check_expert_ffn(Random& random, const InstructionSet& set, WeightType type) {
  const int64_t rows = random.rows(), experts = random.between(2, 6), top_k = random.between(1, 2);
  const int64_t width = random.between(1, 70), f = random.between(1, 50);
  const Numbers gate_up(random, type, experts, 2 * f, width), down(random, type, experts, width, f);
  std::vector<float> x(rows * width), y(rows * width), weights(rows * top_k);
  std::vector<int32_t> ids(rows * top_k);
  // std::vector<bool> has no addresses.
  std::unique_ptr<bool[]> valid(new bool[rows]);
  const bool crowded = random.between(0, 2) == 0, nobody = random.between(0, 5) == 0;
  for (int64_t t = 0; t < rows; ++t) {
    valid[t] = !nobody && random.between(0, 3) > 0;
    for (int64_t k = 0; k < top_k; ++k) {
      ids[t * top_k + k] = static_cast<int32_t>(crowded ? k : (t + k) % experts);
      weights[t * top_k + k] = 0.5f + 0.1f * static_cast<float>(k);
    }
    for (int64_t i = 0; i < width; ++i) x[t * width + i] = valid[t] ? random.normal() : NAN;
  }
  ExpertFfn op{};
  op.rows = rows;
  op.width = width;
  op.experts = experts;
  op.expert_width = f;
  op.top_k = top_k;
  op.x = {x.data(), false};
  op.y = {y.data(), false};
  op.ids = ids.data();
  op.weights = weights.data();
  op.valid = valid.get();
  op.gate_up = gate_up.weight();
  op.down = down.weight();
  op.activation = {1, INFINITY, 0};
  expert_ffn(set, op);
  for (int64_t t = 0; t < rows; ++t) {
    std::vector<double> expected(width);
    double size = 1;
    for (int64_t k = 0; k < top_k && valid[t]; ++k) {
      const int64_t e = ids[t * top_k + k];
      const std::vector<float> hidden = hidden_values(x.data() + t * width, gate_up, e, f, width);
      for (int64_t d = 0; d < width; ++d) {
        for (int64_t o = 0; o < f; ++o) {
          const double product = static_cast<double>(hidden[o]) * down.values[(e * width + d) * f + o];
          expected[d] += weights[t * top_k + k] * product;
          size = std::fmax(size, std::fabs(product) * static_cast<double>(f));
        }
      }
    }
    for (int64_t d = 0; d < width; ++d) {
      // A hidden value may round to the other neighbour, one part in 256 of it, or of the largest of 32.
      check(std::fabs(y[t * width + d] - expected[d]) <= 4e-3 * size, "expert_ffn", set.name);
      check(valid[t] || y[t * width + d] == 0, "a row that is not valid", set.name);
    }
  }
}

// Tables of a pool's blocks, each of them in one place at most, and a slot for each row; some blocks and slots do not
// exist.
struct RandomTables {
  std::vector<int32_t> tables, slot;
  int64_t slots, entries, pool;

  RandomTables(Random& random, int64_t rows)
      : slots(rows), entries(random.between(1, 3)), pool(slots * entries + random.between(0, 2)) {
    for (int64_t i = 0; i < pool; ++i) tables.push_back(static_cast<int32_t>(i));
    std::shuffle(tables.begin(), tables.end(), random.engine);
    tables.resize(slots * entries);
    for (int32_t& block : tables) {
      if (random.between(0, 5) == 0) block = static_cast<int32_t>(random.between(0, 1) * (pool + 1) - 1);
    }
    for (int64_t row = 0; row < rows; ++row)
      slot.push_back(static_cast<int32_t>(random.between(0, 9) > 0 ? row : rows));
  }

  BlockTables blocks() const { return {tables.data(), slot.data(), slots, entries, pool}; }

  // The block of a row's position; -1 if there is none.
  int64_t block(int64_t row, int64_t position) const {
    const bool outside = slot[row] >= slots || position < 0 || position >= 32 * entries;
    const int64_t block = outside ? -1 : tables[slot[row] * entries + position / 32];
    return block >= pool ? -1 : block;
  }
};

// A cache of the heads' keys and values, or of latents, dense or paged, with one position for each row.
struct RandomCache {
  bool paged;
  RandomTables tables;
  int64_t capacity;
  std::vector<int32_t> positions;

  RandomCache(Random& random, int64_t rows)
      : paged(random.between(0, 1) == 0), tables(random, rows), capacity(paged ? 32 : random.between(1, 30)) {
    const int64_t most = paged ? 32 * tables.entries : capacity;
    for (int64_t row = 0; row < rows; ++row) {
      positions.push_back(static_cast<int32_t>(random.between(paged ? -1 : 0, paged ? most : most - 1)));
    }
  }

  int64_t blocks(int64_t rows) const { return paged ? tables.pool : rows; }
  // Where a row's position lies in the heads of `group`, in rows of the cache; -1 if nowhere.
  int64_t place(int64_t row, int64_t position, int64_t groups, int64_t group) const {
    const int64_t block = paged ? tables.block(row, position) : row;
    return block < 0 ? -1 : (block * groups + group) * capacity + (paged ? position % 32 : position);
  }
};

void check_decode_attention(Random& random, const InstructionSet& set) {
  const bool latents = random.between(0, 2) == 0;
  const int64_t batch = random.between(1, 3), groups = latents ? 1 : random.between(1, 9);
  const int64_t heads = groups * (latents ? random.between(1, 40) : random.between(1, 5));
  const int64_t width = random.between(1, 40), value_width = latents ? random.between(1, width) : width;
  const RandomCache cache(random, batch);
  const int64_t window = random.between(0, 1) * random.between(1, 40);
  std::vector<float> query(batch * heads * width), mixed(batch * heads * value_width);
  std::vector<float> key(cache.blocks(batch) * groups * cache.capacity * width);
  for (float& one : query) one = random.normal();
  for (float& one : key) one = random.normal();
  const std::vector<float> value = key;
  DecodeAttention op{};
  op.batch = batch;
  op.heads = heads;
  op.groups = groups;
  op.capacity = cache.capacity;
  op.width = width;
  op.value_width = value_width;
  op.query = {query.data(), false};
  op.key = {key.data(), false};
  op.value = {latents ? key.data() : const_cast<float*>(value.data()), false};
  if (cache.paged) op.blocks = cache.tables.blocks();
  op.positions = cache.positions.data();
  op.window = window;
  op.scale = 0.5f;
  op.mixed = {mixed.data(), false};
  decode_attention(set, op);
  for (int64_t head = 0; head < batch * heads; ++head) {
    const float* own = query.data() + head * width;
    const int64_t row = head / heads, group = head % heads / (heads / groups), position = cache.positions[row];
    std::vector<double> sum(value_width);
    double total = 0;
    const bool absent = cache.place(row, position, groups, group) < 0;
    for (int64_t at = window > 0 ? std::max<int64_t>(0, position + 1 - window) : 0; at <= position; ++at) {
      const int64_t place = absent ? -1 : cache.place(row, at, groups, group);
      if (place < 0) continue;
      double score = 0;
      for (int64_t i = 0; i < width; ++i) score += static_cast<double>(own[i]) * key[place * width + i];
      const double share = std::exp(0.5 * score);
      total += share;
      for (int64_t i = 0; i < value_width; ++i) sum[i] += share * value[place * width + i];
    }
    for (int64_t i = 0; i < value_width; ++i) {
      const double expected = absent ? 0 : sum[i] / total;
      check(std::fabs(mixed[head * value_width + i] - expected) < 1e-4, "decode_attention", set.name);
    }
  }
}

void check_append_latents(Random& random, const char* set) {
  const int64_t batch = random.between(1, 5), width = random.between(1, 40);
  const RandomCache cache(random, batch);
  std::vector<float> latent(batch * width), latents(cache.blocks(batch) * cache.capacity * width, 7.0f);
  for (float& one : latent) one = random.normal();
  std::vector<float> expected = latents;
  AppendLatents op{batch, cache.capacity, 4 * width, latent.data(), latents.data(), {}, cache.positions.data()};
  if (cache.paged) op.blocks = cache.tables.blocks();
  append_latents(op);
  for (int64_t row = 0; row < batch; ++row) {
    const int64_t place = cache.place(row, cache.positions[row], 1, 0);
    if (place >= 0) std::copy_n(&latent[row * width], width, &expected[place * width]);
  }
  check(latents == expected, "append_latents", set);
}

// Positions of rows of `length` tokens each, from `first` on. If `skips`, a row's last token leaves one position out,
// and may lie outside of the cache.
std::vector<int32_t> row_positions(int64_t tokens, int64_t length, int64_t first, bool skips) {
  std::vector<int32_t> positions(tokens);
  for (int64_t token = 0; token < tokens; ++token) {
    const int64_t place = token % length;
    positions[token] = static_cast<int32_t>(first + place + (skips && place == length - 1));
  }
  return positions;
}

// Norms are over heads, in float32.
void check_append_heads(Random& random, const InstructionSet& set) {
  const RandomTables tables(random, 3);
  const bool paged = random.between(0, 2) == 0;
  const int64_t batch = paged ? 3 : random.between(1, 3), length = paged ? 1 : random.between(1, 4);
  const int64_t groups = random.between(1, 3), heads = groups * random.between(1, 3), half = random.between(1, 20),
                width = 2 * half;
  const bool prompts = !paged && random.between(0, 1) == 0, normed = random.between(0, 1) == 0;
  const int64_t tokens = batch * length, capacity = paged ? 32 : length + (prompts ? 0 : random.between(0, 3));
  std::vector<float> query(tokens * heads * width), key(tokens * groups * width), value(key.size()),
      turned(query.size());
  std::vector<float> cosines(tokens * half), sines(tokens * half), scale(width);
  std::vector<float> keys((paged ? tables.pool : batch) * groups * capacity * width, 7.0f), values(keys);
  for (auto* numbers : {&query, &key, &value, &cosines, &sines, &scale}) {
    for (float& one : *numbers) one = random.normal();
  }
  std::vector<int32_t> positions = row_positions(tokens, length, prompts ? 0 : capacity - length, !prompts);
  for (int32_t& one : positions) one = paged ? static_cast<int32_t>(random.between(-1, 32 * tables.entries)) : one;
  AppendHeads op{};
  op.batch = batch;
  op.length = length;
  op.heads = heads;
  op.groups = groups;
  op.capacity = capacity;
  op.head_dim = width;
  op.query = {query.data(), false};
  op.key = {key.data(), false};
  op.value = {value.data(), false};
  op.cache_key = {keys.data(), false};
  op.cache_value = {values.data(), false};
  op.positions = prompts ? nullptr : positions.data();
  op.cosines = cosines.data();
  op.sines = sines.data();
  op.query_norm = op.key_norm = normed ? scale.data() : nullptr;
  op.norm_eps = 0.01f;
  op.new_query = {turned.data(), false};
  if (paged) op.blocks = tables.blocks();
  append_heads(set, op);
  const auto same = [&](const float* from, int64_t token, const float* got) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(from[i]) * from[i];
    const double factor = normed ? 1 / std::sqrt(squares / static_cast<double>(width) + 0.01) : 1;
    const auto at = [&](int64_t i) { return from[i] * factor * (normed ? scale[i] : 1.0f); };
    for (int64_t i = 0; i < half; ++i) {
      const double cosine = cosines[token * half + i], sine = sines[token * half + i];
      const double first = at(i) * cosine - at(i + half) * sine, second = at(i + half) * cosine + at(i) * sine;
      check(std::fabs(got[i] - first) < 1e-4 && std::fabs(got[i + half] - second) < 1e-4, "append_heads", set.name);
    }
  };
  for (int64_t token = 0; token < tokens; ++token) {
    const int64_t row = token / length, place = token % length, position = positions[token];
    for (int64_t h = 0; h < heads; ++h) {
      same(&query[(token * heads + h) * width], token, &turned[((row * heads + h) * length + place) * width]);
    }
    const int64_t block = paged ? tables.block(row, position) : position < capacity ? row : -1;
    for (int64_t g = 0; g < groups && block >= 0; ++g) {
      const int64_t to = ((block * groups + g) * capacity + position % 32) * width, from = (token * groups + g) * width;
      same(&key[from], token, &keys[to]);
      check(std::memcmp(&value[from], &values[to], 4 * width) == 0, "values of append_heads", set.name);
    }
  }
}

// The number of experts in `among` that the row prefers to expert `id`, by score and then by place.
int64_t before(const float* row, int64_t experts, int32_t id, const bool* among) {
  int64_t count = 0;
  for (int64_t e = 0; e < experts; ++e) count += among[e] && (row[e] > row[id] || (row[e] == row[id] && e < id));
  return count;
}

KeepRule random_rule(Random& random, int64_t top_k, int64_t experts) {
  KeepRule rule{};
  rule.kind = static_cast<KeepRule::Kind>(random.between(0, 4));
  rule.first = random.between(1, top_k);
  rule.alpha = 1;
  rule.lowest = random.between(1, 40);
  rule.votes = std::min<int64_t>(rule.lowest, 31);
  rule.slack = 0.3f;
  rule.share = 0.5f;
  rule.most = random.between(0, 1) > 0 ? experts : random.between(top_k, experts);
  return rule;
}

// One random call of select_experts: what it is asked, and the arrays that it reads and writes.
struct RoutingCase {
  int64_t groups, rows, experts, groups_kept, top_k, run;
  bool own, mixer;
  SelectExperts op{};
  std::vector<float> logits, weights, bias;
  std::vector<int32_t> ids, says, costs;
  std::unique_ptr<bool[]> valid, active, all, alone;
  int32_t limit = 0;

  explicit RoutingCase(Random& random);
  // `op` points into the arrays.
  RoutingCase(const RoutingCase&) = delete;
  RoutingCase& operator=(const RoutingCase&) = delete;

  void draw_router(Random& random);
  void draw_terms(Random& random);
  bool by_logit() const { return groups == 1 && op.router.bias == nullptr; }
  int64_t cost_of(const std::vector<bool>& read) const;
};

RoutingCase::RoutingCase(Random& random) {
  groups = random.between(0, 2) > 0 ? 1 : random.between(2, 5);
  rows = random.rows();
  const int64_t size = random.between(2, 40 / groups);
  experts = size * groups;
  groups_kept = random.between(1, groups);
  top_k = random.between(1, size * groups_kept);
  op.rule = random_rule(random, top_k, experts);
  own = op.rule.kind == KeepRule::Kind::kOwn && op.rule.most == experts;
  run = own ? random.between(1, top_k) : top_k;
  logits.resize(rows * experts);
  // Rounded, so that many are equal.
  for (float& logit : logits) logit = std::round(random.normal() * 2);
  valid.reset(new bool[rows]);
  active.reset(new bool[experts]);
  all.reset(new bool[experts]);
  const bool nobody = random.between(0, 5) == 0;
  for (int64_t t = 0; t < rows; ++t) valid[t] = !nobody && random.between(0, 3) > 0;
  std::fill_n(all.get(), experts, true);
  weights.resize(rows * run);
  ids.resize(rows * run);
  op.rows = rows;
  op.experts = experts;
  op.top_k = top_k;
  op.run = run;
  op.logits = logits.data();
  op.valid = valid.get();
  op.ids = ids.data();
  op.weights = weights.data();
  op.active = active.get();
  draw_router(random);
  draw_terms(random);
}

void RoutingCase::draw_router(Random& random) {
  bias.resize(experts);
  for (float& value : bias) value = 0.1f * random.normal();
  mixer = groups == 1 && random.between(0, 3) == 0;
  op.router.scoring = static_cast<Router::Scoring>(mixer ? 2 : random.between(0, 1));
  op.router.renormalize = !mixer;
  op.router.scale = 2;
  op.router.groups = groups;
  op.router.groups_kept = groups_kept;
  op.router.two_best = groups > 1 && random.between(0, 1) > 0;
  if (op.router.scoring == Router::Scoring::kSigmoid && random.between(0, 2) == 0) op.router.bias = bias.data();
}

// Own rows, says, costs and a limit, each in half of the calls that take them.
void RoutingCase::draw_terms(Random& random) {
  const int64_t unit = 64;
  says.resize(rows);
  costs.assign(experts, 1);
  alone.reset(new bool[rows]);
  std::fill_n(alone.get(), rows, false);
  limit = static_cast<int32_t>(random.between(0, experts * unit));
  if (run != top_k || random.between(0, 1) == 0) return;
  if (random.between(0, 1) > 0) {
    for (int64_t t = 0; t < rows; ++t) alone[t] = random.between(0, 3) == 0;
    op.own = alone.get();
  }
  if (random.between(0, 1) > 0) {
    for (int32_t& say : says) say = static_cast<int32_t>(random.between(0, 256));
    op.terms.say = says.data();
  }
  if (random.between(0, 1) > 0) {
    for (int32_t& cost : costs) cost = static_cast<int32_t>(random.between(1, unit));
    op.terms.cost = costs.data();
    op.terms.unit = unit;
    if (random.between(0, 1) > 0) op.terms.limit = &limit;
  }
}

int64_t RoutingCase::cost_of(const std::vector<bool>& read) const {
  int64_t total = 0;
  for (int64_t e = 0; e < experts; ++e) total += read[e] ? costs[e] : 0;
  return total;
}

void check_select_experts(Random& random, const InstructionSet& set) {
  RoutingCase drawn(random);
  select_experts(set, drawn.op);
  std::vector<bool> used(drawn.experts), chosen(drawn.experts);
  const bool* active = drawn.active.get();
  const bool* all = drawn.all.get();
  for (int64_t t = 0; t < drawn.rows; ++t) {
    const float* row = drawn.logits.data() + t * drawn.experts;
    const auto ids = drawn.ids.begin() + t * drawn.run;
    double total = 0;
    for (int64_t k = 0; k < drawn.run; ++k) {
      const int32_t id = ids[k];
      total += drawn.weights[t * drawn.run + k];
      check(std::count(ids, ids + drawn.run, id) == 1, "an expert taken once", set.name);
      if (!drawn.valid[t]) continue;
      used[id] = true;
      // A row runs its best experts of those that are read, or of all experts if the batch keeps every row's own.
      if (drawn.by_logit()) {
        const bool freely = (drawn.own && drawn.op.terms.limit == nullptr) || drawn.alone[t];
        check(before(row, drawn.experts, id, freely ? all : active) == k, "the order of experts", set.name);
      }
    }
    for (int64_t e = 0; drawn.by_logit() && drawn.valid[t] && e < drawn.experts; ++e) {
      if (before(row, drawn.experts, static_cast<int32_t>(e), all) < drawn.top_k) chosen[e] = true;
    }
    if (!drawn.mixer) check(std::fabs(total - (drawn.valid[t] ? 2 : 0)) < 1e-5, "weights", set.name);
  }
  for (int64_t e = 0; e < drawn.experts; ++e) check(active[e] == used[e], "active experts", set.name);
  if (!drawn.by_logit()) return;
  check(drawn.cost_of(used) <= drawn.cost_of(chosen), "no more than the model's own experts cost", set.name);
}

void check_vocabulary(Random& random, const InstructionSet& set) {
  const int64_t rows = random.between(1, 200), width = random.between(1, 2100);
  std::vector<float> table(rows * width), taken(3 * width);
  for (float& value : table) value = std::round(random.normal() * 2);
  std::vector<int32_t> ids{-5, static_cast<int32_t>(random.between(0, rows - 1)), static_cast<int32_t>(rows)},
      best(rows);
  take_rows({rows, 4 * width, 3, table.data(), ids.data(), taken.data()});
  for (int64_t i = 0; i < 3; ++i) {
    const int64_t id = std::clamp<int64_t>(ids[i], 0, rows - 1);
    check(std::memcmp(&taken[i * width], &table[id * width], 4 * width) == 0, "take_rows", set.name);
  }
  table[0] = NAN;
  std::unique_ptr<bool[]> finite(new bool[rows]);
  greedy_token(set, {rows, width, table.data(), best.data(), finite.get()});
  for (int64_t t = 0; t < rows; ++t) {
    const float* row = table.data() + t * width;
    check(finite[t] == (t > 0), "finite", set.name);
    check(t == 0 || best[t] == std::max_element(row, row + width) - row, "greedy_token", set.name);
  }
}

void check_rms_norm(Random& random, const InstructionSet& set) {
  const int64_t rows = random.between(1, 9), width = random.between(1, 70);
  std::vector<float> x(rows * width), y(rows * width), scale(width);
  for (float& value : x) value = random.normal();
  for (float& value : scale) value = random.normal();
  rms_norm(set, {rows, width, {x.data(), false}, {y.data(), false}, scale.data(), 0.01f});
  for (int64_t t = 0; t < rows; ++t) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(x[t * width + i]) * x[t * width + i];
    for (int64_t i = 0; i < width; ++i) {
      const double expected = x[t * width + i] * scale[i] / std::sqrt(squares / width + 0.01);
      check(std::fabs(y[t * width + i] - expected) < 1e-5 * (1 + std::fabs(expected)), "rms_norm", set.name);
    }
  }
}

void check_all(uint32_t seed) {
  Random random{std::mt19937(seed)};
  for (int index = 0; const InstructionSet* set = instruction_set(index); ++index) {
    for (int round = 0; round < 6; ++round) {
      check_append_heads(random, *set);
      check_decode_attention(random, *set);
      check_append_latents(random, set->name);
      check_select_experts(random, *set);
      check_vocabulary(random, *set);
      check_rms_norm(random, *set);
      check_quantize(random, *set);
    }
    for (int type = 0; type < kWeightTypes; ++type) {
      for (int round = 0; round < 6; ++round) {
        check_row_matmul(random, *set, static_cast<WeightType>(type));
        check_expert_ffn(random, *set, static_cast<WeightType>(type));
        if (type < static_cast<int>(WeightType::kInt8)) {
          check_chunk_attention(random, *set, static_cast<WeightType>(type));
        }
      }
    }
  }
}

}  // namespace

int main() {
  for (int threads = 1; threads <= 3; ++threads) {
    set_thread_count(threads);
    std::thread other([] { check_all(1); });
    check_all(static_cast<uint32_t>(1 + threads));
    other.join();
  }
  std::puts("all equal");
}
