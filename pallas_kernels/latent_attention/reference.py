"""`latent_attention` in plain JAX: scores of every position of the cache, masked."""

import jax
import jax.numpy as jnp

from pallas_kernels.block_tables import gather_blocks, held
from pallas_kernels.latent_attention.arguments import LatentArrays, LatentOptions


def latent_attention_reference(arrays: LatentArrays, *, options: LatentOptions) -> jax.Array:
  """`latent_attention` over the whole cache.

  The sums of values include the rotary key beside each value, and drop it at the end: a slice of the cache would be a
  copy of it.
  """
  query, cache, positions, blocks = arrays
  in_pool = None
  if blocks is not None:
    in_pool, cache = held(blocks, positions, cache.shape[0]), gather_blocks(cache, blocks)
  scores = jnp.einsum("bnw,bcw->bnc", query, cache, preferred_element_type=jnp.float32) * options.scale
  visible = jnp.arange(cache.shape[1])[None, :] <= positions[:, None]
  if in_pool is not None:
    visible &= in_pool
    # What the row does not see may be another sequence's NaN, whose product with a share of zero is not zero.
    cache = jnp.where(visible[:, :, None], cache, 0)
  share = jax.nn.softmax(jnp.where(visible[:, None], scores, jnp.finfo(jnp.float32).min), axis=-1)
  attended = jnp.einsum("bnc,bcw->bnw", share.astype(cache.dtype), cache, preferred_element_type=jnp.float32)
  attended = attended[..., : options.value_width]
  if in_pool is not None:
    attended = jnp.where(in_pool.any(axis=1)[:, None, None], attended, 0)
  return attended.astype(query.dtype)
