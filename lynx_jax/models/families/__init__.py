"""The model families: a file each, named after the `model_type`, that turns a config.json into a spec."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from lynx_jax.models.families import mixtral, olmoe, qwen3_moe
from lynx_jax.models.spec import DecoderSpec

FAMILIES: Mapping[str, Callable[[Mapping[str, Any]], DecoderSpec]] = MappingProxyType(
  {"mixtral": mixtral.spec, "olmoe": olmoe.spec, "qwen3_moe": qwen3_moe.spec}
)


def spec_from_config(config: Mapping[str, Any], generation_config: Mapping[str, Any] | None = None) -> DecoderSpec:
  """The decoder that a checkpoint's config.json describes.

  `generation_config` is the parsed generation_config.json, if there is one: its `eos_token_id` comes first.
  Raises ValueError for an unknown `model_type`, a missing key, and a setting that is not supported.
  """
  family = config.get("model_type")
  if family is None or family not in FAMILIES:
    raise ValueError(f"config.json has model_type {family!r}; supported: {', '.join(sorted(FAMILIES))}")
  stop = None if generation_config is None else generation_config.get("eos_token_id")
  return FAMILIES[family](config if stop is None else {**config, "eos_token_id": stop})
