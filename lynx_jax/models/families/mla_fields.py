"""Reads what DeepSeek's configurations share: latent attention, and dense layers before those with experts."""

import math

from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families.fields import Fields, check_common, layer_count, stop_ids
from lynx_jax.models.families.rope_fields import rope, rope_object
from lynx_jax.models.mla import MLASpec
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.rope import YarnScaling
from lynx_jax.models.spec import DecoderSpec, LayerSpec


def latent_decoder(
  fields: Fields, experts: MoESpec, *, dense_layers: int, context: int, stop_id: int, neighbours: bool
) -> DecoderSpec:
  """The decoder whose first `first_k_dense_replace` layers are dense and whose others have `experts`.

  Args:
    fields: the configuration.
    experts: of every layer that has them.
    dense_layers: `first_k_dense_replace` where the file has none; likewise `context` and `stop_id`.
    context: `max_position_embeddings`.
    stop_id: `eos_token_id`.
    neighbours: whether rotary positions turn neighbouring numbers of a head together.
  """
  check_common(fields)
  fields.only("mlp_bias", (False,), False)
  fields.only("moe_layer_freq", (1,), 1)
  context = fields.whole_or("max_position_embeddings", context)
  attention = _attention(fields, context, neighbours)
  count = layer_count(fields)
  dense = min(fields.whole_or("first_k_dense_replace", dense_layers), count)
  layers = [LayerSpec(attention=attention, ffn=experts)] * (count - dense)
  if dense:
    first = LayerSpec(attention=attention, ffn=DenseSpec(width=fields.whole("intermediate_size")))
    layers = [first] * dense + layers
  return DecoderSpec(
    family=fields.family,
    vocab=fields.whole("vocab_size"),
    width=fields.whole("hidden_size"),
    layers=tuple(layers),
    norm_eps=fields.number("rms_norm_eps", 1e-6),
    tied=fields.flag("tie_word_embeddings", False),
    context=context,
    stop_ids=stop_ids(fields, stop_id),
  )


def shared_experts(fields: Fields, default: int) -> DenseSpec | None:
  """The network that every token runs: `n_shared_experts` experts side by side, or None."""
  count = fields.maybe_whole("n_shared_experts", default)
  return DenseSpec(width=count * fields.whole("moe_intermediate_size")) if count else None


def _attention(fields: Fields, context: int, neighbours: bool) -> MLASpec:
  heads = fields.whole("num_attention_heads")
  # Every head has a key and a value of its own, expanded from the latent.
  fields.only("num_key_value_heads", (None, heads))
  key_width, rope_width = fields.whole("qk_nope_head_dim"), fields.whole("qk_rope_head_dim")
  positions = rope(fields, 1e4, context=context, kinds=("default", "yarn"))
  scale = max(1, key_width + rope_width) ** -0.5
  if isinstance(positions.scaling, YarnScaling):
    weight = rope_object(fields).maybe_number("mscale_all_dim", None) or 0.0
    factor = positions.scaling.factor
    # Scores grow with the square of what YaRN multiplies queries and keys by, whether or not they have positions.
    scale *= (1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0) ** 2
  return MLASpec(
    heads=heads,
    rank=fields.whole("kv_lora_rank"),
    query_rank=fields.maybe_whole("q_lora_rank", 1536),
    key_width=key_width,
    rope_width=rope_width,
    value_width=fields.whole("v_head_dim"),
    rope=positions,
    scale=scale,
    neighbours=neighbours,
    bias=fields.flag("attention_bias", False),
  )
