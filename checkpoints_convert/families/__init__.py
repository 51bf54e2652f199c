"""The families' rule tables: one file each, named after the family."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from checkpoints_convert.families import mixtral, olmoe, qwen3_moe
from checkpoints_convert.rules import RuleTable
from lynx_jax.models.spec import DecoderSpec

TABLES: Mapping[str, Callable[..., RuleTable]] = MappingProxyType(
  {"mixtral": mixtral.rules, "olmoe": olmoe.rules, "qwen3_moe": qwen3_moe.rules}
)


def hub_rules(spec: DecoderSpec) -> RuleTable:
  """The rules of the files that the hub has, which transformers writes too."""
  return TABLES[spec.family](spec)


def rules_for(spec: DecoderSpec, tensors: Iterable[str]) -> RuleTable:
  """The rules of the spelling in which the checkpoint's `tensors` are named."""
  fused = any(name.endswith(".experts.gate_up_proj") for name in tensors)
  return TABLES[spec.family](spec, fused=fused)
