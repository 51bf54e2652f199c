"""Reads the rotary embedding of a `config.json`, in both spellings, as transformers reads it."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.families.fields import Fields
from lynx_jax.models.rope import LinearScaling, Llama3Scaling, LongScaling, RopeSpec, Scaling, YarnScaling

KINDS = ("default", "linear", "yarn", "llama3", "longrope")
_ANY_KIND = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_KEYS = {
  "default": set(),
  "linear": {"factor"},
  "yarn": {
    "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
    "mscale_all_dim", "truncate",
  },
  "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
  "longrope": {"short_factor", "long_factor", "factor", "attention_factor", "original_max_position_embeddings"},
}  # fmt: skip


def rope(
  fields: Fields,
  theta: float,
  *,
  context: int,
  kinds: Collection[str] = KINDS,
  more: Collection[str] = (),
) -> RopeSpec:
  """The rotary embedding, from `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (older files).

  Args:
    fields: the configuration.
    theta: base of the frequencies where the file has none.
    context: the model's `max_position_embeddings`.
    kinds: what the family's reference can run.
    more: keys that the family reads itself.

  Raises:
    ValueError: another kind, another key, a part of each head, or one embedding for each type of layer.
  """
  name, nested = rope_values(fields)
  kind = kind_of(nested)
  unknown = set(nested) - _ANY_KIND - _KEYS.get(kind, set()) - set(more)
  if kind not in kinds or unknown:
    raise fields.unsupported(name, dict(nested), f"rope_type {' or '.join(kinds)}, alike in every layer")
  for values in (nested, fields.values):
    part = values.get("partial_rotary_factor")
    if part not in (None, 1, 1.0):
      raise fields.unsupported("partial_rotary_factor", part, "1.0 (the whole head turns)")
  found = nested.get("rope_theta") or fields.optional("rope_theta", None) or theta
  return RopeSpec(theta=float(found), scaling=_scaling(fields, nested, kind, context))


def plain_theta(attention: AttentionSpec) -> float:
  """The base to write in a configuration that has no other rotary setting; ValueError where one is needed."""
  if attention.rope is None or attention.rope.scaling is not None:
    raise ValueError(f"this configuration cannot say rope {attention.rope!r}: give a RopeSpec without scaling")
  return attention.rope.theta


def rope_values(fields: Fields) -> tuple[str, Mapping[str, Any]]:
  """The dictionary that describes the embedding, and its key; as in transformers, `rope_scaling` comes first."""
  for name in ("rope_scaling", "rope_parameters"):
    if nested := fields.optional(name, None):
      return name, nested
  return "rope_parameters", {}


def kind_of(nested: Mapping[str, Any]) -> str:
  """`rope_type`, or `type` as older files have it."""
  return nested.get("rope_type") or nested.get("type") or "default"


def _scaling(fields: Fields, nested: Mapping[str, Any], kind: str, context: int) -> Scaling | None:
  def number(key: str) -> float:
    if nested.get(key) is None:
      raise ValueError(
        f"config.json of family {fields.family!r} has a rotary embedding {kind!r} without {key!r}: add it"
      )
    return float(nested[key])

  original = fields.optional("original_max_position_embeddings", None)
  original = original or nested.get("original_max_position_embeddings") or context
  match kind:
    case "linear":
      return LinearScaling(factor=number("factor"))
    case "llama3":
      return Llama3Scaling(
        factor=number("factor"),
        low_frequency_factor=number("low_freq_factor"),
        high_frequency_factor=number("high_freq_factor"),
        original_context=original,
      )
    case "yarn":
      factor = float(nested.get("factor") or context / original)
      return YarnScaling(
        factor=factor,
        original_context=original,
        attention_factor=_yarn_attention_factor(nested, factor),
        beta_fast=float(nested.get("beta_fast") or 32),
        beta_slow=float(nested.get("beta_slow") or 1),
        truncate=nested.get("truncate", True),
      )
    case "longrope":
      for key in ("short_factor", "long_factor"):
        if not nested.get(key):
          number(key)
      stretch = float(nested.get("factor") or context / original)
      attention = nested.get("attention_factor")
      if attention is None:
        attention = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(original))
      return LongScaling(
        short_factors=tuple(map(float, nested["short_factor"])),
        long_factors=tuple(map(float, nested["long_factor"])),
        original_context=original,
        short_attention_factor=float(attention),
        long_attention_factor=float(attention),
      )
  return None


def _yarn_attention_factor(nested: Mapping[str, Any], factor: float) -> float:
  def magnitude(weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

  given = nested.get("attention_factor")
  if given is not None:
    return float(given)
  mscale, mscale_all_dim = nested.get("mscale"), nested.get("mscale_all_dim")
  if mscale and mscale_all_dim:
    return magnitude(mscale) / magnitude(mscale_all_dim)
  return magnitude(1.0)
