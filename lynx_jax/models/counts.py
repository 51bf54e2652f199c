"""Sizes that follow from a spec alone: parameters, and the bytes that a token or a step moves."""

import dataclasses

import jax

from lynx_jax.models.decoder import Decoder, abstract_decoder
from lynx_jax.models.spec import DecoderSpec, MoESpec


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
  """Parameter counts of a model.

  Attributes:
    total: all parameters.
    active: those that one token uses: everything but the experts it does not run.
    experts: parameters of all experts.
    embedding: parameters of the input embedding, of which a step reads only its tokens' rows (unless tied).
    kv_per_token: numbers (keys and values, or MLA's latents) that the cache holds for one position, all layers.
  """

  total: int
  active: int
  experts: int
  embedding: int
  kv_per_token: int

  @property
  def always_read(self) -> int:
    """Parameters that every decode step reads, whichever experts run: attention, shared experts, norms, head, ..."""
    return self.total - self.experts - self.embedding


def counts(spec: DecoderSpec) -> Counts:
  """Counts from the abstract decoder; nothing is allocated."""
  decoder: Decoder = abstract_decoder(spec)
  total = sum(leaf.size for leaf in jax.tree.leaves(decoder))
  experts = idle = 0
  for layer in spec.layers:
    if isinstance(layer.ffn, MoESpec):
      one = 3 * spec.width * layer.ffn.expert_width
      if layer.ffn.bias:
        one += 2 * layer.ffn.expert_width + spec.width
      experts += layer.ffn.experts * one
      idle += (layer.ffn.experts - layer.ffn.top_k) * one
  return Counts(
    total=total,
    active=total - idle,
    experts=experts,
    embedding=0 if spec.tied else spec.vocab * spec.width,
    kv_per_token=sum(layer.attention.cache_width for layer in spec.layers),
  )
