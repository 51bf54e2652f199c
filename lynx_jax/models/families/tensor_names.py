"""Rules for the tensor names that most families share, and for the two spellings of experts."""

from collections.abc import Callable, Iterable

from checkpoints_convert.rules import Duplicate, Fold, Ignored, Interleave, Join, Rule, RuleTable, Stack
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.mla import MLASpec
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec

FfnRules = Callable[[int, LayerSpec], tuple[Rule, ...]]

_PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}


def decoder_rules(spec: DecoderSpec, ffn: FfnRules, *, prefix: str = "", pairs: bool = False) -> RuleTable:
  """The rules of a whole decoder.

  Args:
    spec: the decoder.
    ffn: the rules of a layer's feed-forward part, given the layer's index and spec.
    prefix: what every tensor's name begins with.
    pairs: whether rotary positions turn neighbouring numbers of a head in the file. Here they turn a head's first half
      with its second, so the rows of queries and keys are put in that order.
  """
  embedding = f"{prefix}model.embed_tokens.weight"
  rules = [Rule("embedding", embedding), *_norm(spec, "final_norm", f"{prefix}model.norm")]
  for index, layer in enumerate(spec.layers):
    ours, theirs = f"layers.{index}", f"{prefix}model.layers.{index}"
    rules += _norm(spec, f"{ours}.attention_norm", f"{theirs}.input_layernorm")
    if isinstance(layer.attention, MLASpec):
      rules += _latent_attention(f"{ours}.attention", f"{theirs}.self_attn", layer.attention)
    else:
      rules += _attention(f"{ours}.attention", f"{theirs}.self_attn", layer.attention, pairs)
    rules += _norm(spec, f"{ours}.ffn_norm", f"{theirs}.post_attention_layernorm")
    rules += ffn(index, layer)
  head = f"{prefix}lm_head.weight"
  if spec.head_bias:
    rules.append(Rule("head_bias", f"{prefix}lm_head.bias"))
  frequencies = Ignored(r".*model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", "rotary frequencies, computed here")
  return (*rules, Duplicate(head, of=embedding) if spec.tied else Rule("head", head), frequencies)


def _norm(spec: DecoderSpec, ours: str, theirs: str) -> list[Rule]:
  rules = [Rule(f"{ours}.scale", f"{theirs}.weight")]
  return [*rules, Rule(f"{ours}.bias", f"{theirs}.bias")] if spec.norm_bias else rules


def _attention(ours: str, theirs: str, spec: AttentionSpec, pairs: bool) -> list[Rule]:
  rules = []
  for name, proj in _PROJECTIONS.items():
    turned = pairs and name in ("query", "key") and spec.rope is not None
    biased = spec.output_bias if name == "output" else spec.qkv_bias
    for parameter, kind in ((name, "weight"), (f"{name}_bias", "bias"))[: 2 if biased else 1]:
      tensor = f"{theirs}.{proj}.{kind}"
      rules.append(Rule(f"{ours}.{parameter}", Interleave(tensor, 0, spec.head_dim) if turned else tensor))
  if spec.qk_norm in ("head", "projection"):
    rules += [Rule(f"{ours}.{name}_norm.scale", f"{theirs}.{name[0]}_norm.weight") for name in ("query", "key")]
  if spec.sinks:
    rules.append(Rule(f"{ours}.sinks", f"{theirs}.sinks"))
  return rules


def _latent_attention(ours: str, theirs: str, spec: MLASpec) -> list[Rule]:
  projections = {"latent": "kv_a_proj_with_mqa", "output": "o_proj"}
  if spec.query_rank is None:
    projections["query"] = "q_proj"
  else:
    projections |= {"query_down": "q_a_proj", "query_up": "q_b_proj"}
  rules = [Rule(f"{ours}.{name}", f"{theirs}.{proj}.weight") for name, proj in projections.items()]
  if spec.bias:
    biased = {name: proj for name, proj in projections.items() if name in ("query_down", "latent", "output")}
    rules += [Rule(f"{ours}.{name}_bias", f"{theirs}.{proj}.bias") for name, proj in biased.items()]
  norms = {"latent_norm": "kv_a_layernorm"} | ({} if spec.query_rank is None else {"query_norm": "q_a_layernorm"})
  rules += [Rule(f"{ours}.{name}.scale", f"{theirs}.{norm}.weight") for name, norm in norms.items()]
  both = Join((f"{ours}.key_up", f"{ours}.value_up"), axis=1, sizes=(spec.key_width, spec.value_width))
  return [*rules, Rule(Fold(both, spec.heads), f"{theirs}.kv_b_proj.weight")]


def dense(ours: str, theirs: str) -> tuple[Rule, ...]:
  """The rules of one SwiGLU network."""
  gate_up = Join((f"{theirs}.gate_proj.weight", f"{theirs}.up_proj.weight"))
  return Rule(f"{ours}.gate_up", gate_up), Rule(f"{ours}.down", f"{theirs}.down_proj.weight")


def fused(found: Iterable[str]) -> bool:
  """Whether a checkpoint that holds the tensors `found` has a layer's experts in two tensors, as transformers 5 does.

  The hub's files have three tensors an expert.
  """
  return any(name.endswith(".experts.gate_up_proj") for name in found)


def expert_rules(ours: str, theirs: str, moe: MoESpec, found: Iterable[str]) -> tuple[Rule, ...]:
  """The rules of a router and its experts under the names that most families give them, in either spelling."""
  if fused(found):
    return experts_fused(ours, theirs)
  return experts_apart(ours, theirs, moe.experts)


def experts_apart(
  ours: str, theirs: str, count: int, *, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj"
) -> tuple[Rule, ...]:
  """The rules of a router and `count` experts of three tensors each."""
  each = [f"{theirs}.experts.{expert}" for expert in range(count)]
  gate_up = Stack(tuple(Join((f"{expert}.{gate}.weight", f"{expert}.{up}.weight")) for expert in each))
  return (
    Rule(f"{ours}.router", f"{theirs}.gate.weight"),
    Rule(f"{ours}.gate_up", gate_up),
    Rule(f"{ours}.down", Stack(tuple(f"{expert}.{down}.weight" for expert in each))),
  )


def experts_fused(ours: str, theirs: str, *, router: str = "gate.weight") -> tuple[Rule, ...]:
  """The rules of a router and experts in two tensors a layer."""
  return (
    Rule(f"{ours}.router", f"{theirs}.{router}"),
    Rule(f"{ours}.gate_up", f"{theirs}.experts.gate_up_proj"),
    Rule(f"{ours}.down", f"{theirs}.experts.down_proj"),
  )
