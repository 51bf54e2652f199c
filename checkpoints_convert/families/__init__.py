"""The families' rule tables: one file each, named after the family."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from checkpoints_convert.families import (
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
from checkpoints_convert.rules import RuleTable
from lynx_jax.models.spec import DecoderSpec

TABLES: Mapping[str, Callable[..., RuleTable]] = MappingProxyType(
  {
    "dbrx": dbrx.rules,
    "deepseek_v2": deepseek_v2.rules,
    "deepseek_v3": deepseek_v3.rules,
    "gpt_oss": gpt_oss.rules,
    "granitemoe": granitemoe.rules,
    "llama4_text": llama4_text.rules,
    "mixtral": mixtral.rules,
    "moefied_llama": moefied_llama.rules,
    "olmoe": olmoe.rules,
    "phimoe": phimoe.rules,
    "qwen2_moe": qwen2_moe.rules,
    "qwen3_moe": qwen3_moe.rules,
  }
)


def hub_rules(spec: DecoderSpec) -> RuleTable:
  """The rules of the files that the hub has, which transformers writes too."""
  return TABLES[spec.family](spec)


def rules_for(spec: DecoderSpec, tensors: Iterable[str]) -> RuleTable:
  """The rules of the spelling in which the checkpoint's `tensors` are named."""
  tensors = list(tensors)
  fused = any(name.endswith(".experts.gate_up_proj") for name in tensors)
  if spec.family == "llama4_text" and any(name.startswith(llama4_text.BESIDE_TEXT) for name in tensors):
    return llama4_text.rules(spec, fused=fused, prefix=llama4_text.BESIDE_TEXT)
  return TABLES[spec.family](spec, fused=fused)
