"""Llama 4 (Scout, Maverick), the text model: every token runs a shared expert and one of its own.

Router: the largest logit, whose sigmoid multiplies what goes into the expert. Layers with rotary positions see chunks
of 8192 positions and norm each head's queries and keys; every fourth layer has no positions, sees everything, and
grows its queries with the logarithm of their position (arXiv 2501.19399). Published Lynx knobs: alpha 1 without a
clip, which is a `beta` larger than the logits' spread. Reference: transformers, `models/llama4/modeling_llama4.py`.

The released checkpoints are of `model_type` llama4, a model that sees as well: the text model is its `text_config`,
and its tensors' names begin with `language_model.`. The vision model is not read. Files of the text alone, which
transformers' `Llama4ForCausalLM` writes and `convert` writes here, have no prefix.

Tensors: experts are transposed, inputs before outputs; rotary positions turn neighbouring numbers of a head.
"""

from collections.abc import Mapping
from typing import Any

from checkpoints_convert.rules import Ignored, Rule, RuleTable, Shapes, Transpose
from lynx_jax.models.attention import AttentionSpec, QueryGrowth
from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families.family import Family
from lynx_jax.models.families.fields import Fields, check_common, layer_count, layer_types, stop_ids
from lynx_jax.models.families.rope_fields import rope
from lynx_jax.models.families.tensor_names import decoder_rules, dense
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.rope import RopeSpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router

_BESIDE_VISION = "language_model."
_VISION = Ignored(r"(vision_model|multi_modal_projector)\..*", "the vision model, which is not read")


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` llama4_text describes."""
  fields = Fields("llama4_text", config)
  check_common(fields)
  layers, context = layer_count(fields), fields.whole_or("max_position_embeddings", 131072)
  # Heads are normed after they are turned there and before here, which is one thing while turns keep lengths.
  positions = rope(fields, 5e5, context=context, kinds=("default", "linear", "llama3"))
  turned = [bool(one) for one in fields.wholes("no_rope_layers") or _every_but(fields, layers)]
  if len(turned) < layers:
    raise fields.unsupported("no_rope_layers", turned, f"one number for each of {layers} layers")
  chunk = fields.maybe_whole("attention_chunk_size", 8192)
  by_positions = ["chunked_attention" if one and chunk is not None else "full_attention" for one in turned[:layers]]
  kinds = layer_types(fields, by_positions, ("chunked_attention", "full_attention"))
  if "chunked_attention" in kinds and chunk is None:
    raise fields.unsupported("attention_chunk_size", None, "a number of positions, which layer_types asks for")
  dense_ffn, experts = DenseSpec(width=fields.whole_or("intermediate_size_mlp", 16384)), _experts(fields)
  with_experts = _moe_layers(fields, layers)
  return DecoderSpec(
    family="llama4_text",
    vocab=fields.whole("vocab_size"),
    width=fields.whole("hidden_size"),
    layers=tuple(
      LayerSpec(
        attention=_attention(fields, positions if turned[index] else None, chunk if kind != "full_attention" else None),
        ffn=experts if index in with_experts else dense_ffn,
      )
      for index, kind in enumerate(kinds)
    ),
    norm_eps=fields.number("rms_norm_eps", 1e-5),
    tied=fields.flag("tie_word_embeddings", False),
    context=context,
    stop_ids=stop_ids(fields, 2),
  )


def _attention(fields: Fields, positions: RopeSpec | None, chunk: int | None) -> AttentionSpec:
  heads, bias = fields.whole("num_attention_heads"), fields.flag("attention_bias", False)
  grown = positions is None and fields.flag("attn_temperature_tuning", True)
  growth = QueryGrowth(gain=fields.number("attn_scale", 0.1), floor=fields.number("floor_scale", 8192))
  return AttentionSpec(
    heads=heads,
    kv_heads=fields.maybe_whole("num_key_value_heads", 8) or heads,
    head_dim=fields.maybe_whole("head_dim", 128) or fields.whole("hidden_size") // max(heads, 1),
    rope=positions,
    qk_norm="l2" if positions is not None and fields.flag("use_qk_norm", True) else "none",
    qkv_bias=bias,
    output_bias=bias,
    chunk=chunk,
    query_growth=growth if grown else None,
  )


def _experts(fields: Fields) -> MoESpec:
  width = fields.whole("intermediate_size")
  return MoESpec(
    experts=fields.whole("num_local_experts", "num_experts"),
    top_k=fields.whole("num_experts_per_tok"),
    expert_width=width,
    router=Router(scoring="sigmoid", renormalize=False),
    scale_input=True,
    shared=DenseSpec(width=width),
  )


def _every_but(fields: Fields, layers: int) -> list[int]:
  interval = fields.whole_or("no_rope_layer_interval", 4)
  if interval < 1:
    raise fields.unsupported("no_rope_layer_interval", interval, "1 or more (every such layer has no positions)")
  return [int((index + 1) % interval != 0) for index in range(layers)]


def _moe_layers(fields: Fields, layers: int) -> set[int]:
  given = fields.wholes("moe_layers")
  if given is not None:
    return set(given)
  step = fields.whole_or("interleave_moe_layer_step", 1)
  if step < 1:
    raise fields.unsupported("interleave_moe_layer_step", step, "1 or more (every such layer has experts)")
  return set(range(step - 1, layers, step))


def rules(spec: DecoderSpec, found: Shapes) -> RuleTable:
  """The tensor names, with the prefix that those of the text have beside a vision model."""
  prefix = _BESIDE_VISION if any(name.startswith(_BESIDE_VISION) for name in found) else ""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    ours, theirs = f"layers.{index}.ffn", f"{prefix}model.layers.{index}.feed_forward"
    if not isinstance(layer.ffn, MoESpec):
      return dense(ours, theirs)
    return (
      Rule(f"{ours}.router", f"{theirs}.router.weight"),
      Rule(f"{ours}.gate_up", Transpose(f"{theirs}.experts.gate_up_proj")),
      Rule(f"{ours}.down", Transpose(f"{theirs}.experts.down_proj")),
      *dense(f"{ours}.shared", f"{theirs}.shared_expert"),
    )

  table = decoder_rules(spec, ffn, prefix=prefix, pairs=True)
  return (*table, _VISION) if prefix else table


FAMILY = Family(name="llama4_text", spec=spec, rules=rules, text_of=("llama4",))
