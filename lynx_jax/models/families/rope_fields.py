"""Reads the rotary embedding of a `config.json`, in both spellings, as transformers reads it."""

import math
from collections.abc import Collection

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
  nested = rope_object(fields)
  kind = nested.word("rope_type", "type") or "default"
  unknown = set(nested.values) - _ANY_KIND - _KEYS.get(kind, set()) - set(more)
  if kind not in kinds or unknown:
    name = nested.prefix.removesuffix(".")
    raise fields.unsupported(name, dict(nested.values), f"rope_type {' or '.join(kinds)}, alike in every layer")
  for values in (nested, fields):
    values.only("partial_rotary_factor", (None, 1, 1.0))
  found = nested.positive("rope_theta", fields.positive("rope_theta", theta))
  return RopeSpec(theta=found, scaling=_scaling(fields, nested, kind, context))


def plain_theta(attention: AttentionSpec) -> float:
  """The base to write in a configuration that has no other rotary setting; ValueError where one is needed."""
  if attention.rope is None or attention.rope.scaling is not None:
    raise ValueError(f"this configuration cannot say rope {attention.rope!r}: give a RopeSpec without scaling")
  return attention.rope.theta


def rope_object(fields: Fields) -> Fields:
  """The fields of the object that describes the embedding; `rope_scaling` comes first, as in transformers."""
  older = fields.inner("rope_scaling")
  return older if older.values else fields.inner("rope_parameters")


def required(nested: Fields, kind: str, key: str) -> float:
  """A number that an embedding of this kind cannot do without."""
  found = nested.maybe_number(key, None)
  if found is None:
    raise _incomplete(nested, kind, key)
  return found


def _incomplete(nested: Fields, kind: str, key: str) -> ValueError:
  return ValueError(f"config.json of family {nested.family!r} has a rotary embedding {kind!r} without {key!r}: add it")


def _scaling(fields: Fields, nested: Fields, kind: str, context: int) -> Scaling | None:
  original = fields.maybe_whole("original_max_position_embeddings", None)
  original = original or nested.maybe_whole("original_max_position_embeddings", None) or context
  if original < 2:
    raise fields.unsupported("max_position_embeddings", original, "2 positions or more")
  match kind:
    case "linear":
      return LinearScaling(factor=required(nested, kind, "factor"))
    case "llama3":
      return Llama3Scaling(
        factor=required(nested, kind, "factor"),
        low_frequency_factor=required(nested, kind, "low_freq_factor"),
        high_frequency_factor=required(nested, kind, "high_freq_factor"),
        original_context=original,
      )
    case "yarn":
      factor = nested.maybe_number("factor", None) or context / original
      return YarnScaling(
        factor=factor,
        original_context=original,
        attention_factor=_yarn_attention_factor(nested, factor),
        beta_fast=nested.maybe_number("beta_fast", None) or 32.0,
        beta_slow=nested.maybe_number("beta_slow", None) or 1.0,
        truncate=nested.flag("truncate", True),
      )
    case "longrope":
      return _long_scaling(nested, context, original)
  return None


def _long_scaling(nested: Fields, context: int, original: int) -> LongScaling:
  short, long = (nested.numbers(key) for key in ("short_factor", "long_factor"))
  if not short or not long:
    raise _incomplete(nested, "longrope", "long_factor" if short else "short_factor")
  stretch = nested.maybe_number("factor", None) or context / original
  attention = nested.maybe_number("attention_factor", None)
  if attention is None:
    attention = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(original))
  return LongScaling(
    short_factors=short,
    long_factors=long,
    original_context=original,
    short_attention_factor=attention,
    long_attention_factor=attention,
  )


def _yarn_attention_factor(nested: Fields, factor: float) -> float:
  def magnitude(weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

  given = nested.maybe_number("attention_factor", None)
  if given is not None:
    return given
  mscale, mscale_all_dim = (nested.maybe_number(key, None) for key in ("mscale", "mscale_all_dim"))
  if mscale and mscale_all_dim:
    return magnitude(mscale) / magnitude(mscale_all_dim)
  return magnitude(1.0)
