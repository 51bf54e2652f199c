"""Scores of every position of the cache, masked."""

import jax
import jax.numpy as jnp


def latent_attention_reference(
  query: jax.Array, cache: jax.Array, positions: jax.Array, *, value_width: int, scale: float
) -> jax.Array:
  """`latent_attention` over the whole cache.

  Values are mixed with the rotary key beside them, which is dropped after: a slice of the cache would be a copy of it.
  """
  scores = jnp.einsum("bnw,bcw->bnc", query, cache, preferred_element_type=jnp.float32) * scale
  visible = jnp.arange(cache.shape[1])[None, :] <= positions[:, None]
  share = jax.nn.softmax(jnp.where(visible[:, None], scores, jnp.finfo(jnp.float32).min), axis=-1)
  mixed = jnp.einsum("bnc,bcw->bnw", share.astype(cache.dtype), cache, preferred_element_type=jnp.float32)
  return mixed[..., :value_width].astype(query.dtype)
