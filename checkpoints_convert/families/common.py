"""Rules for the tensors that most families name alike, and for the two ways of writing experts."""

from collections.abc import Callable

from checkpoints_convert.rules import Duplicate, Ignored, Join, Rule, RuleTable, Stack
from lynx_jax.models.spec import AttentionSpec, DecoderSpec, LayerSpec

FfnRules = Callable[[int, LayerSpec], tuple[Rule, ...]]

_FREQUENCIES = Ignored(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", "rotary frequencies")
_PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}


def decoder_rules(spec: DecoderSpec, ffn: FfnRules) -> RuleTable:
  """The rules of a whole decoder, those of each layer's feed-forward part given by `ffn(index, layer)`."""
  embedding = "model.embed_tokens.weight"
  rules = [Rule("embedding", embedding), Rule("final_norm.scale", "model.norm.weight")]
  for index, layer in enumerate(spec.layers):
    ours, theirs = f"layers.{index}", f"model.layers.{index}"
    rules.append(Rule(f"{ours}.attention_norm.scale", f"{theirs}.input_layernorm.weight"))
    rules += _attention(f"{ours}.attention", f"{theirs}.self_attn", layer.attention)
    rules.append(Rule(f"{ours}.ffn_norm.scale", f"{theirs}.post_attention_layernorm.weight"))
    rules += ffn(index, layer)
  head = Duplicate("lm_head.weight", of=embedding) if spec.tied else Rule("head", "lm_head.weight")
  frequencies = Ignored(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", "rotary frequencies, computed here")
  return (*rules, head, frequencies)


def _attention(ours: str, theirs: str, spec: AttentionSpec) -> list[Rule]:
  rules = [Rule(f"{ours}.{name}", f"{theirs}.{proj}.weight") for name, proj in _PROJECTIONS.items()]
  if spec.bias:
    rules += [Rule(f"{ours}.{name}_bias", f"{theirs}.{proj}.bias") for name, proj in _PROJECTIONS.items()]
  if spec.qk_norm != "none":
    rules += [Rule(f"{ours}.{name}_norm.scale", f"{theirs}.{name[0]}_norm.weight") for name in ("query", "key")]
  return rules


def dense(ours: str, theirs: str) -> tuple[Rule, ...]:
  """One SwiGLU network."""
  gate_up = Join((f"{theirs}.gate_proj.weight", f"{theirs}.up_proj.weight"))
  return Rule(f"{ours}.gate_up", gate_up), Rule(f"{ours}.down", f"{theirs}.down_proj.weight")


def experts_apart(ours: str, theirs: str, count: int, gate: str, up: str, down: str) -> tuple[Rule, ...]:
  """A router and experts as files on the hub have them: three tensors an expert."""
  experts = [f"{theirs}.experts.{expert}" for expert in range(count)]
  gate_up = Stack(tuple(Join((f"{expert}.{gate}.weight", f"{expert}.{up}.weight")) for expert in experts))
  return (
    Rule(f"{ours}.router", f"{theirs}.gate.weight"),
    Rule(f"{ours}.gate_up", gate_up),
    Rule(f"{ours}.down", Stack(tuple(f"{expert}.{down}.weight" for expert in experts))),
  )


def experts_fused(ours: str, theirs: str) -> tuple[Rule, ...]:
  """A router and experts as transformers 5 holds them: two tensors a layer."""
  return (
    Rule(f"{ours}.router", f"{theirs}.gate.weight"),
    Rule(f"{ours}.gate_up", f"{theirs}.experts.gate_up_proj"),
    Rule(f"{ours}.down", f"{theirs}.experts.down_proj"),
  )
