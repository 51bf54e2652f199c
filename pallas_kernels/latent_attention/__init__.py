"""Attention of a decode step over a cache of latents, which serve every head as keys and as values."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from pallas_kernels.block_tables import BlockTables, LatentsCache, check_pool
from pallas_kernels.cpu import unavailable
from pallas_kernels.dispatch import CPU, GPU, Choice, Implementation, Op
from pallas_kernels.gpu import triton_backend
from pallas_kernels.latent_attention.arguments import LatentArrays, LatentOptions
from pallas_kernels.latent_attention.cpu import cpu_objection, latent_attention_cpu
from pallas_kernels.latent_attention.reference import latent_attention_reference
from pallas_kernels.latent_attention.triton import latent_attention_triton, objection

__all__ = ["LATENT_ATTENTION", "latent_attention"]

LATENT_ATTENTION = Op(
  "latent_attention",
  (
    Implementation(
      "pallas",
      latent_attention_triton,
      "each cached row read once for scores and values",
      (GPU,),
      objection,
      unavailable=triton_backend.unavailable,
    ),
    Implementation(
      "cpu",
      latent_attention_cpu,
      "native code over the positions that a row sees",
      (CPU,),
      cpu_objection,
      unavailable=unavailable,
      bound=True,
    ),
    Implementation("reference", latent_attention_reference, "scores of the whole cache, in plain JAX"),
  ),
)


def latent_attention(
  query: Float[Array, "B N W"],
  cache: LatentsCache,
  positions: Int32[Array, "B"],
  *,
  value_width: int,
  scale: float,
  blocks: BlockTables | None = None,
  implementation: Choice = None,
) -> Float[Array, "B N _"]:
  """Softmax(query @ cache.T * scale) @ cache[:, :value_width], over the positions of a row up to its own.

  Multi-head latent attention in its absorbed form (arXiv 2405.04434, section 2.1.2): one cached row of W numbers serves
  all heads. Its first `value_width` numbers are the values that heads sum up.

  Args:
    query: one query a head, mapped into the cache's space.
    cache: a latent, and behind it the rotary key, for each of a row's C positions, or with `blocks` a pool of blocks.
    positions: of each row's query, in tokens; the cache holds that position already.
    value_width: how many numbers of a cached row are the latent.
    scale: factor of the scores.
    blocks: where rows find their positions in the pool, and which rows are absent; None for a dense cache.
    implementation: "pallas", "cpu", "reference", a list of these, or None for the best on the platform.

  Returns:
    [B, N, value_width] in `query`'s dtype, zeros for an absent row; scores and softmax in float32.

  Raises:
    ValueError: a value_width that is not within W, a pool whose blocks are not of 32 positions, or an unknown
      implementation.
    NotImplementedError: the named implementation cannot take these sizes.
  """
  if not 1 <= value_width <= cache.shape[2]:
    raise ValueError(f"value_width is {value_width}: expected 1 to {cache.shape[2]}, the width of a cached row")
  positions = positions.astype(jnp.int32)
  blocks = check_pool("cache", cache, positions, blocks)
  arrays = LatentArrays(query, cache, positions, blocks)
  return LATENT_ATTENTION(implementation, arrays, options=LatentOptions(value_width=value_width, scale=float(scale)))
