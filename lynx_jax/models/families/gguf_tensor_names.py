"""Rules for the tensor names of GGUF files, which all architectures share.

Experts of a layer lie in one tensor for the gate, one for up and one for down, or in one for gate and up. Reference:
llama.cpp's `gguf-py/gguf/constants.py` and `src/models/*.cpp`.
"""

from collections.abc import Iterable
from types import MappingProxyType

from checkpoints_convert.rules import (
  Duplicate,
  Fold,
  Ignored,
  Interleave,
  Join,
  Layout,
  Merge,
  Rule,
  RuleTable,
  Transpose,
)
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.mla import MLASpec
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec

# Families whose queries and keys turn neighbouring numbers of a head in llama.cpp.
_NEIGHBOURS = ("granitemoe", "llama4_text", "mixtral")
_TOGETHER = Ignored(r"blk\.\d+\.attn_kv_b\.weight", "what attn_k_b and attn_v_b hold apart")
_FFN_NORM = MappingProxyType({"dbrx": "attn_output_norm", "gpt_oss": "post_attention_norm"})


def is_gguf(found: Iterable[str]) -> bool:
  """Whether tensors of these names are those of a GGUF file."""
  return "token_embd.weight" in found


def gguf_rules(spec: DecoderSpec, found: Iterable[str]) -> RuleTable:
  """The rules between the parameters of `spec` and the tensors `found` in a GGUF file."""
  names = frozenset(found)
  rules = [Rule("embedding", "token_embd.weight"), *_norm(spec, "final_norm", "output_norm")]
  for index, layer in enumerate(spec.layers):
    ours, theirs = f"layers.{index}", f"blk.{index}"
    rules += _norm(spec, f"{ours}.attention_norm", f"{theirs}.attn_norm")
    if isinstance(layer.attention, MLASpec):
      rules += _latent_attention(f"{ours}.attention", theirs, layer.attention, names)
    else:
      pairs = spec.family in _NEIGHBOURS and layer.attention.rope is not None
      rules += _attention(f"{ours}.attention", theirs, layer.attention, names, pairs)
    rules += _norm(spec, f"{ours}.ffn_norm", f"{theirs}.{_FFN_NORM.get(spec.family, 'ffn_norm')}")
    rules += _ffn(f"{ours}.ffn", theirs, layer, names)
  head = "output.weight"
  if spec.head_bias:
    rules.append(Rule("head_bias", "output.bias"))
  further = Ignored(rf"blk\.{len(spec.layers)}\..*", "multi-token prediction, which decoding does without")
  return (*rules, Duplicate(head, of="token_embd.weight") if spec.tied else Rule("head", head), further, _TOGETHER)


def _norm(spec: DecoderSpec, ours: str, theirs: str) -> list[Rule]:
  rules = [Rule(f"{ours}.scale", f"{theirs}.weight")]
  return [*rules, Rule(f"{ours}.bias", f"{theirs}.bias")] if spec.norm_bias else rules


def _attention(ours: str, theirs: str, spec: AttentionSpec, names: frozenset[str], pairs: bool) -> list[Rule]:
  projections = {"query": "attn_q", "key": "attn_k", "value": "attn_v"}
  kinds = (("", "weight"), *((("_bias", "bias"),) if spec.qkv_bias else ()))
  rules: list[Rule] = []
  for suffix, kind in kinds:
    joined = f"{theirs}.attn_qkv.{kind}"
    if joined in names:
      sizes = tuple(heads * spec.head_dim for heads in (spec.heads, spec.kv_heads, spec.kv_heads))
      rules.append(Rule(Join(tuple(f"{ours}.{name}{suffix}" for name in projections), sizes=sizes), joined))
      continue
    for name, tensor in projections.items():
      source: Layout = f"{theirs}.{tensor}.{kind}"
      turned = pairs and name != "value"
      rules.append(Rule(f"{ours}.{name}{suffix}", Interleave(source, 0, spec.head_dim) if turned else source))
  rules.append(Rule(f"{ours}.output", f"{theirs}.attn_output.weight"))
  if spec.output_bias:
    rules.append(Rule(f"{ours}.output_bias", f"{theirs}.attn_output.bias"))
  if spec.qk_norm in ("head", "projection"):
    rules += [Rule(f"{ours}.{name}_norm.scale", f"{theirs}.attn_{name[0]}_norm.weight") for name in ("query", "key")]
  if spec.sinks:
    rules.append(Rule(f"{ours}.sinks", f"{theirs}.attn_sinks.weight"))
  return rules


def _latent_attention(ours: str, theirs: str, spec: MLASpec, names: frozenset[str]) -> list[Rule]:
  weights = {"latent": "attn_kv_a_mqa", "latent_norm.scale": "attn_kv_a_norm", "output": "attn_output"}
  if spec.query_rank is None:
    weights["query"] = "attn_q"
  else:
    weights |= {"query_down": "attn_q_a", "query_norm.scale": "attn_q_a_norm", "query_up": "attn_q_b"}
  rules = [Rule(f"{ours}.{name}", f"{theirs}.{tensor}.weight") for name, tensor in weights.items()]
  together, apart = f"{theirs}.attn_kv_b.weight", [f"{theirs}.attn_{name}_b.weight" for name in "kv"]
  if apart[0] in names or together not in names:
    # Each head's expansion to keys is kept the other way round: llama.cpp applies it to queries.
    return [*rules, Rule(f"{ours}.key_up", Transpose(apart[0])), Rule(f"{ours}.value_up", apart[1])]
  both = Join((f"{ours}.key_up", f"{ours}.value_up"), axis=1, sizes=(spec.key_width, spec.value_width))
  return [*rules, Rule(Fold(both, spec.heads), together)]


def _ffn(ours: str, theirs: str, layer: LayerSpec, names: frozenset[str]) -> list[Rule]:
  ffn = layer.ffn
  if not isinstance(ffn, MoESpec):
    return _dense(ours, theirs)
  rules = [
    Rule(f"{ours}.router", f"{theirs}.ffn_gate_inp.weight"),
    Rule(f"{ours}.gate_up", _gate_up(theirs, "weight", names)),
    Rule(f"{ours}.down", f"{theirs}.ffn_down_exps.weight"),
  ]
  if ffn.router_bias:
    rules.append(Rule(f"{ours}.router_bias", f"{theirs}.ffn_gate_inp.bias"))
  if ffn.selection_bias:
    rules.append(Rule(f"{ours}.selection_bias", f"{theirs}.exp_probs_b.bias"))
  if ffn.bias:
    rules += [
      Rule(f"{ours}.gate_up_bias", _gate_up(theirs, "bias", names)),
      Rule(f"{ours}.down_bias", f"{theirs}.ffn_down_exps.bias"),
    ]
  if ffn.shared is not None:
    rules += _dense(f"{ours}.shared", theirs, "_shexp")
  if ffn.shared_gate:
    rules.append(Rule(f"{ours}.shared_gate", Merge(f"{theirs}.ffn_gate_inp_shexp.weight", 1)))
  return rules


def _gate_up(theirs: str, kind: str, names: frozenset[str]) -> Layout:
  joined = f"{theirs}.ffn_gate_up_exps.{kind}"
  if joined in names:
    return joined
  return Join((f"{theirs}.ffn_gate_exps.{kind}", f"{theirs}.ffn_up_exps.{kind}"), axis=1)


def _dense(ours: str, theirs: str, suffix: str = "") -> list[Rule]:
  gate, up, down = (f"{theirs}.ffn_{name}{suffix}.weight" for name in ("gate", "up", "down"))
  return [Rule(f"{ours}.gate_up", Join((gate, up))), Rule(f"{ours}.down", down)]
