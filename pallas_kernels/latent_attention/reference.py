"""`latent_attention` in plain JAX: scores of every position of the cache, masked."""

import jax
import jax.numpy as jnp

from pallas_kernels.latent_attention.arguments import LatentArrays, LatentOptions


def latent_attention_reference(arrays: LatentArrays, *, options: LatentOptions) -> jax.Array:
  """`latent_attention` over the whole cache.

  The sums of values include the rotary key beside each value, and drop it at the end: a slice of the cache would be a
  copy of it.
  """
  query, cache, positions = arrays
  scores = jnp.einsum("bnw,bcw->bnc", query, cache, preferred_element_type=jnp.float32) * options.scale
  visible = jnp.arange(cache.shape[1])[None, :] <= positions[:, None]
  share = jax.nn.softmax(jnp.where(visible[:, None], scores, jnp.finfo(jnp.float32).min), axis=-1)
  attended = jnp.einsum("bnc,bcw->bnw", share.astype(cache.dtype), cache, preferred_element_type=jnp.float32)
  return attended[..., : options.value_width].astype(query.dtype)
