"""Which layers of a Qwen model have experts: `decoder_sparse_step` and `mlp_only_layers`."""

from collections.abc import Callable

from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families.fields import Fields, layer_count
from lynx_jax.models.moe import MoESpec


def ffns(fields: Fields, moe: Callable[..., MoESpec]) -> list[MoESpec | DenseSpec]:
  """The feed-forward part of every layer; `moe` is given the experts' number, how many a token runs, and their width.

  Layer i has experts where `decoder_sparse_step` divides i + 1 and `mlp_only_layers` does not list i.
  """
  experts, layers = fields.whole("num_local_experts", "num_experts"), layer_count(fields)
  dense = set(fields.wholes("mlp_only_layers") or ())
  step = fields.whole_or("decoder_sparse_step", 1)
  if step < 1:
    raise fields.unsupported("decoder_sparse_step", step, "1 or more (every such layer has experts)")

  def ffn(index: int) -> MoESpec | DenseSpec:
    if index in dense or experts == 0 or (index + 1) % step:
      return DenseSpec(width=fields.whole("intermediate_size"))
    return moe(
      experts=experts,
      top_k=fields.whole("num_experts_per_tok"),
      expert_width=fields.whole("moe_intermediate_size"),
    )

  return [ffn(index) for index in range(layers)]
