// The library's C interface: handlers of XLA's custom calls, and a few functions that Python calls.
#include <algorithm>
#include <atomic>
#include <exception>

#include "attention.h"
#include "expert_ffn.h"
#include "greedy_token.h"
#include "product_speed.h"
#include "quantize.h"
#include "read_bandwidth.h"
#include "rms_norm.h"
#include "row_matmul.h"
#include "select_experts.h"
#include "take_rows.h"
#include "xla_ffi.h"

#define LYNX_EXPORT extern "C" __attribute__((visibility("default")))

namespace lynx {
namespace {

Rows rows_of(const ffi::Buffer& buffer) { return {buffer.data, buffer.dtype == ffi::kBfloat16}; }

// The weight at argument `next`, of `outs` outputs and `inner` inputs. The scales of a quantised weight are the
// argument after it.
Weight weight_of(const ffi::Call& call, int64_t outs, int64_t inner, int64_t& next) {
  const ffi::Buffer& buffer = call.arg(next++);
  if (buffer.dtype == ffi::kInt8) {
    return {buffer.data, WeightType::kInt8, outs, inner, {call.arg(next++).data}, sizeof(float)};
  }
  if (buffer.dtype == ffi::kUint8) {
    // [.., blocks of outputs, lines, bytes] and [.., blocks of outputs, groups of inputs, outputs]
    const ffi::Buffer& scales = call.arg(next++);
    const int64_t lines = buffer.dims[buffer.rank - 2], groups = scales.dims[scales.rank - 2];
    const int64_t stored = buffer.dims[buffer.rank - 3] * 16;
    const Scales held{scales.data, scales.dtype == ffi::kFloat16, lines / 4 / groups};
    return {buffer.data, WeightType::kInt4, stored, lines * 4, held, groups * 2};
  }
  const WeightType type = buffer.dtype == ffi::kFloat32 ? WeightType::kFloat32 : WeightType::kBfloat16;
  return {buffer.data, type, outs, plain_row_bytes(type, inner), {}, 0};
}

const void* optional(const ffi::Call& call, const char* name, int64_t& next) {
  return call.attribute<int64_t>(name, 0) ? call.arg(next++).data : nullptr;
}

// Runs body(call, instruction set), and turns an exception into XLA's error.
template <class Body>
ffi::Error* run(ffi::CallFrame* frame, const Body& body) {
  return ffi::handle(frame, [&](const ffi::Call& call) -> ffi::Error* {
    const InstructionSet* set = instruction_set(static_cast<int>(call.attribute<int64_t>("instructions", 0)));
    if (set == nullptr) return call.error("lynx: this processor lacks the instruction set that was asked for");
    try {
      body(call, *set);
    } catch (const std::exception& exception) {
      return call.error(exception.what());
    }
    return nullptr;
  });
}

// The tables of a paged cache are arguments `next` and `next + 1` of a call that has them. `pool` is the cache.
BlockTables blocks_of(const ffi::Call& call, const ffi::Buffer& pool, int64_t next) {
  if (call.attribute<int64_t>("paged", 0) == 0) return {};
  const ffi::Buffer& tables = call.arg(next);
  return {call.data<int32_t>(next), call.data<int32_t>(next + 1), tables.dims[0], tables.dims[1], pool.dims[0]};
}

// The projections are a call's first three arguments. Cosines, sines and norms are the arguments from `next` on.
AppendHeads heads_of(const ffi::Call& call, int64_t next) {
  AppendHeads op{};
  op.query = rows_of(call.arg(0));
  op.key = rows_of(call.arg(1));
  op.value = rows_of(call.arg(2));
  op.new_query = rows_of(call.result(0));
  const ffi::Buffer& cache = call.result(1);
  op.batch = cache.dims[0];
  op.groups = cache.dims[1];
  op.capacity = cache.dims[2];
  op.head_dim = cache.dims[3];
  op.heads = call.arg(0).dims[1] / op.head_dim;
  op.cache_key = rows_of(cache);
  op.cache_value = rows_of(call.result(2));
  op.cosines = call.data<float>(next++);
  op.sines = call.data<float>(next++);
  op.norm_eps = call.attribute<float>("norm_eps", 0);
  op.clip = call.attribute<float>("clip", 0);
  op.query_norm = optional(call, "query_norm", next);
  op.key_norm = optional(call, "key_norm", next);
  op.norm_projection = call.attribute<int64_t>("norm_projection", 0) != 0;
  op.blocks = blocks_of(call, cache, next);
  return op;
}

}  // namespace
}  // namespace lynx

LYNX_EXPORT lynx::ffi::Error* lynx_expert_ffn(lynx::ffi::CallFrame* frame) {
  using namespace lynx;
  return run(frame, [](const ffi::Call& call, const InstructionSet& set) {
    ExpertFfn op{};
    const ffi::Buffer& x = call.arg(0);
    op.rows = x.dims[0];
    op.width = x.dims[1];
    op.x = rows_of(x);
    op.ids = call.data<int32_t>(1);
    op.top_k = call.arg(1).dims[1];
    op.weights = call.data<float>(2);
    op.valid = call.data<bool>(3);
    op.experts = call.arg(4).dims[0];
    op.expert_width = call.attribute<int64_t>("expert_width", 0);
    int64_t next = 4;
    op.gate_up = weight_of(call, 2 * op.expert_width, op.width, next);
    op.down = weight_of(call, op.width, op.expert_width, next);
    op.gate_up_bias = optional(call, "gate_up_bias", next);
    op.down_bias = optional(call, "down_bias", next);
    op.activation = {call.attribute<float>("alpha", 1), call.attribute<float>("limit", 0),
                     call.attribute<float>("shift", 0)};
    op.y = rows_of(call.result(0));
    expert_ffn(set, op);
  });
}

LYNX_EXPORT lynx::ffi::Error* lynx_row_matmul(lynx::ffi::CallFrame* frame) {
  using namespace lynx;
  return run(frame, [](const ffi::Call& call, const InstructionSet& set) {
    RowMatmul op{};
    const ffi::Buffer& x = call.arg(0);
    op.rows = x.dims[0];
    op.inner = x.dims[1];
    op.x = rows_of(x);
    op.norm_eps = call.attribute<float>("norm_eps", 0);
    int64_t next = 1;
    op.norm_scale = optional(call, "norm", next);
    op.residual = optional(call, "residual", next);
    op.used = op.rows;
    if (const void* used = optional(call, "used", next)) {
      op.used = std::clamp<int64_t>(*static_cast<const int32_t*>(used), 0, op.rows);
    }
    // Bit i says whether product i has a bias.
    const int64_t biases = call.attribute<int64_t>("biases", 0);
    for (int64_t i = 0; i < call.results(); ++i) {
      const ffi::Buffer& y = call.result(i);
      const Weight weight = weight_of(call, y.dims[1], op.inner, next);
      const void* bias = biases >> i & 1 ? call.arg(next++).data : nullptr;
      op.products.push_back({weight, y.dims[1], bias, rows_of(y)});
    }
    row_matmul(set, op);
  });
}

LYNX_EXPORT lynx::ffi::Error* lynx_append_heads(lynx::ffi::CallFrame* frame) {
  using namespace lynx;
  return run(frame, [](const ffi::Call& call, const InstructionSet& set) {
    // The caches are arguments 3 and 4 as well as results, in the same memory.
    AppendHeads op = heads_of(call, 6);
    op.batch = call.arg(0).dims[0];
    op.length = 1;
    op.positions = call.data<int32_t>(5);
    append_heads(set, op);
  });
}

LYNX_EXPORT lynx::ffi::Error* lynx_append_latents(lynx::ffi::CallFrame* frame) {
  using namespace lynx;
  return run(frame, [](const ffi::Call& call, const InstructionSet&) {
    // The cache is argument 1 as well as the result, in the same memory.
    const ffi::Buffer &latent = call.arg(0), &cache = call.result(0);
    AppendLatents op{};
    op.batch = latent.dims[0];
    op.capacity = cache.dims[1];
    op.row_bytes = latent.dims[1] * rows_of(latent).bytes();
    op.latent = latent.data;
    op.cache = cache.data;
    op.positions = call.data<int32_t>(2);
    op.blocks = blocks_of(call, cache, 3);
    append_latents(op);
  });
}

LYNX_EXPORT lynx::ffi::Error* lynx_prompt_heads(lynx::ffi::CallFrame* frame) {
  using namespace lynx;
  return run(frame, [](const ffi::Call& call, const InstructionSet& set) {
    AppendHeads op = heads_of(call, 3);
    op.length = op.capacity;
    append_heads(set, op);
  });
}

LYNX_EXPORT lynx::ffi::Error* lynx_decode_attention(lynx::ffi::CallFrame* frame) {
  using namespace lynx;
  return run(frame, [](const ffi::Call& call, const InstructionSet& set) {
    DecodeAttention op{};
    op.query = rows_of(call.arg(0));
    op.batch = call.arg(0).dims[0];
    op.heads = call.arg(0).dims[1];
    op.key = rows_of(call.arg(1));
    op.groups = call.arg(1).dims[1];
    op.capacity = call.arg(1).dims[2];
    op.width = op.value_width = call.arg(1).dims[3];
    op.value = rows_of(call.arg(2));
    op.positions = call.data<int32_t>(3);
    op.window = call.attribute<int64_t>("window", 0);
    op.chunk = call.attribute<int64_t>("chunk", 0);
    op.scale = call.attribute<float>("scale", 1);
    int64_t next = 4;
    op.sinks = static_cast<const float*>(optional(call, "sinks", next));
    op.blocks = blocks_of(call, call.arg(1), next);
    op.mixed = rows_of(call.result(0));
    decode_attention(set, op);
  });
}

LYNX_EXPORT lynx::ffi::Error* lynx_latent_attention(lynx::ffi::CallFrame* frame) {
  using namespace lynx;
  return run(frame, [](const ffi::Call& call, const InstructionSet& set) {
    const ffi::Buffer &query = call.arg(0), &cache = call.arg(1);
    DecodeAttention op{};
    op.query = rows_of(query);
    op.batch = query.dims[0];
    op.heads = query.dims[1];
    op.key = op.value = rows_of(cache);
    op.groups = 1;
    op.capacity = cache.dims[1];
    op.width = cache.dims[2];
    op.value_width = call.result(0).dims[2];
    op.positions = call.data<int32_t>(2);
    op.scale = call.attribute<float>("scale", 1);
    op.blocks = blocks_of(call, cache, 3);
    op.mixed = rows_of(call.result(0));
    decode_attention(set, op);
  });
}

LYNX_EXPORT lynx::ffi::Error* lynx_chunk_attention(lynx::ffi::CallFrame* frame) {
  using namespace lynx;
  return run(frame, [](const ffi::Call& call, const InstructionSet& set) {
    ChunkAttention op{};
    const ffi::Buffer &query = call.arg(0), &key = call.arg(1);
    op.query = rows_of(query);
    op.rows = query.dims[0];
    op.heads = query.dims[1];
    op.key = op.value = rows_of(key);
    op.blocks = key.dims[0];
    op.groups = key.dims[1];
    op.width = op.value_stride = key.dims[3];
    op.tiles = call.arg(2).dims[0];
    op.start = call.data<int32_t>(2);
    op.count = call.data<int32_t>(3);
    op.slot = call.data<int32_t>(4);
    op.position = call.data<int32_t>(5);
    op.tables = call.data<int32_t>(6);
    op.slots = call.arg(6).dims[0];
    op.table_blocks = call.arg(6).dims[1];
    op.window = call.attribute<int64_t>("window", 0);
    op.chunk = call.attribute<int64_t>("chunk", 0);
    op.scale = call.attribute<float>("scale", 1);
    int64_t next = 7;
    if (call.attribute<int64_t>("value", 0)) {
      op.value_stride = call.arg(next).dims[3];
      op.value = rows_of(call.arg(next++));
    }
    op.sinks = static_cast<const float*>(optional(call, "sinks", next));
    op.mixed = rows_of(call.result(0));
    op.value_width = call.result(0).dims[2];
    chunk_attention(set, op);
  });
}

LYNX_EXPORT lynx::ffi::Error* lynx_select_experts(lynx::ffi::CallFrame* frame) {
  using namespace lynx;
  return run(frame, [](const ffi::Call& call, const InstructionSet& set) {
    SelectExperts op{};
    op.rows = call.arg(0).dims[0];
    op.experts = call.arg(0).dims[1];
    op.logits = call.data<float>(0);
    op.valid = call.data<bool>(1);
    op.top_k = call.attribute<int64_t>("top_k", 1);
    op.run = call.result(0).dims[1];
    op.router.scoring = static_cast<Router::Scoring>(call.attribute<int64_t>("scoring", 0));
    op.router.renormalize = call.attribute<int64_t>("renormalize", 0) != 0;
    op.router.unit_weights = call.attribute<int64_t>("unit_weights", 0) != 0;
    op.router.scale = call.attribute<float>("scale", 1);
    op.router.groups = call.attribute<int64_t>("groups", 1);
    op.router.groups_kept = call.attribute<int64_t>("groups_kept", 1);
    op.router.two_best = call.attribute<int64_t>("two_best", 0) != 0;
    int64_t next = 2;
    op.router.bias = static_cast<const float*>(optional(call, "bias", next));
    op.own = static_cast<const bool*>(optional(call, "own", next));
    op.terms.say = static_cast<const int32_t*>(optional(call, "say", next));
    op.terms.cost = static_cast<const int32_t*>(optional(call, "cost", next));
    op.terms.limit = static_cast<const int32_t*>(optional(call, "limit", next));
    op.terms.unit = call.attribute<int64_t>("unit", 1);
    op.rule.kind = static_cast<KeepRule::Kind>(call.attribute<int64_t>("rule", 0));
    op.rule.first = call.attribute<int64_t>("first", 0);
    op.rule.alpha = call.attribute<float>("alpha", 0);
    op.rule.lowest = call.attribute<int64_t>("lowest", 0);
    op.rule.votes = call.attribute<int64_t>("votes", 0);
    op.rule.slack = call.attribute<float>("slack", 0);
    op.rule.share = call.attribute<float>("share", 0);
    op.rule.most = call.attribute<int64_t>("most", op.experts);
    op.ids = static_cast<int32_t*>(call.result(0).data);
    op.weights = static_cast<float*>(call.result(1).data);
    op.active = static_cast<bool*>(call.result(2).data);
    select_experts(set, op);
  });
}

LYNX_EXPORT lynx::ffi::Error* lynx_rms_norm(lynx::ffi::CallFrame* frame) {
  using namespace lynx;
  return run(frame, [](const ffi::Call& call, const InstructionSet& set) {
    RmsNorm op{};
    op.width = call.arg(1).dims[0];
    op.x = rows_of(call.arg(0));
    op.y = rows_of(call.result(0));
    op.rows = 1;
    for (int64_t i = 0; i + 1 < call.arg(0).rank; ++i) op.rows *= call.arg(0).dims[i];
    op.scale = call.arg(1).data;
    op.eps = call.attribute<float>("eps", 0);
    rms_norm(set, op);
  });
}

LYNX_EXPORT lynx::ffi::Error* lynx_greedy_token(lynx::ffi::CallFrame* frame) {
  using namespace lynx;
  return run(frame, [](const ffi::Call& call, const InstructionSet& set) {
    const ffi::Buffer& logits = call.arg(0);
    greedy_token(set, {logits.dims[0], logits.dims[1], call.data<float>(0), static_cast<int32_t*>(call.result(0).data),
                       static_cast<bool*>(call.result(1).data)});
  });
}

LYNX_EXPORT lynx::ffi::Error* lynx_take_rows(lynx::ffi::CallFrame* frame) {
  using namespace lynx;
  return run(frame, [](const ffi::Call& call, const InstructionSet&) {
    const ffi::Buffer& table = call.arg(0);
    const int64_t bytes = table.dtype == ffi::kFloat32 ? 4 : table.dtype == ffi::kInt8 ? 1 : 2;
    take_rows({table.dims[0], table.dims[1] * bytes, call.arg(1).dims[0], table.data, call.data<int32_t>(1),
               call.result(0).data});
  });
}

// `fingerprint` of build.py, at the time of the build.
LYNX_EXPORT unsigned lynx_sources() { return LYNX_SOURCES; }

LYNX_EXPORT double lynx_read_bandwidth(int64_t bytes, int passes) { return lynx::read_bandwidth(bytes, passes); }

LYNX_EXPORT double lynx_product_speed(int type, int64_t rows, int64_t inner, int64_t bytes, int64_t read) {
  const auto kind = static_cast<lynx::WeightType>(type);
  return lynx::product_speed(*lynx::instruction_set(0), kind, rows, inner, bytes, read);
}

// 1 if all weights are finite, 0 if one is not, and -1 if there is no memory.
LYNX_EXPORT int lynx_quantize(const void* weight, int narrow, int64_t matrices, int64_t outs, int64_t inner,
                              int64_t group, const float* ends, int64_t count, int interleaved, uint8_t* values,
                              uint16_t* scales) {
  try {
    const lynx::Rows rows{const_cast<void*>(weight), narrow != 0};
    return lynx::quantize(*lynx::instruction_set(0),
                          {matrices, outs, inner, rows, group, ends, count, interleaved != 0, values, scales});
  } catch (const std::exception&) {
    return -1;
  }
}

// 1, or -1 if there is no memory.
LYNX_EXPORT int lynx_interleave(int64_t matrices, int64_t outs, int64_t inputs, int64_t groups, const uint8_t* values,
                                const uint16_t* scales, uint8_t* new_values, uint16_t* new_scales) {
  try {
    lynx::interleave({matrices, outs, inputs, groups, values, scales, new_values, new_scales});
    return 1;
  } catch (const std::exception&) {
    return -1;
  }
}

LYNX_EXPORT const char* lynx_instruction_set(int index) {
  const lynx::InstructionSet* set = lynx::instruction_set(index);
  return set == nullptr ? nullptr : set->name;
}

LYNX_EXPORT int lynx_thread_count() { return lynx::thread_count(); }

LYNX_EXPORT void lynx_set_thread_count(int count) { lynx::set_thread_count(count); }

// Returns 1 if loops on all threads run each item once, in runs no longer than allowed.
LYNX_EXPORT int lynx_self_test() {
  for (const int64_t most : {1, 7, 2000}) {
    int64_t items[1000] = {};
    std::atomic<bool> good{true};
    lynx::parallel_runs(1000, most, [&](lynx::Run run, int64_t following) {
      if (run.size() < 1 || run.size() > most || following < -1 || following >= 1000) good = false;
      for (int64_t item = run.begin; item < run.end; ++item) items[item] += item + 1;
    });
    for (int64_t item = 0; item < 1000; ++item) {
      if (items[item] != item + 1) return 0;
    }
    if (!good) return 0;
  }
  return 1;
}
