"""The model families: a file each, named after the `model_type`, that turns a config.json into a spec."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from lynx_jax.models.families import (
  dbrx,
  deepseek_v2,
  deepseek_v3,
  gpt_oss,
  granitemoe,
  llama4_text,
  mixtral,
  moefied_llama,
  olmoe,
  phimoe,
  qwen2_moe,
  qwen3_moe,
)
from lynx_jax.models.spec import DecoderSpec

FAMILIES: Mapping[str, Callable[[Mapping[str, Any]], DecoderSpec]] = MappingProxyType(
  {
    "dbrx": dbrx.spec,
    "deepseek_v2": deepseek_v2.spec,
    "deepseek_v3": deepseek_v3.spec,
    "gpt_oss": gpt_oss.spec,
    "granitemoe": granitemoe.spec,
    "llama4_text": llama4_text.spec,
    "mixtral": mixtral.spec,
    "moefied_llama": moefied_llama.spec,
    "olmoe": olmoe.spec,
    "phimoe": phimoe.spec,
    "qwen2_moe": qwen2_moe.spec,
    "qwen3_moe": qwen3_moe.spec,
  }
)

# Configurations of models with more than text, and the family of their `text_config`.
_WITH_TEXT = MappingProxyType({"llama4": "llama4_text"})


def spec_from_config(config: Mapping[str, Any], generation_config: Mapping[str, Any] | None = None) -> DecoderSpec:
  """The decoder that a checkpoint's config.json describes.

  `generation_config` is the parsed generation_config.json, if there is one: its `eos_token_id` comes first.
  Raises ValueError for an unknown `model_type`, a missing key, and a setting that is not supported.
  """
  family: Any = config.get("model_type")
  if family in _WITH_TEXT:
    config = {"model_type": _WITH_TEXT[family], **(config.get("text_config") or {})}
    family = config["model_type"]
  if family is None or family not in FAMILIES:
    raise ValueError(f"config.json has model_type {family!r}; supported: {', '.join(sorted(FAMILIES))}")
  stop = None if generation_config is None else generation_config.get("eos_token_id")
  return FAMILIES[family](config if stop is None else {**config, "eos_token_id": stop})
