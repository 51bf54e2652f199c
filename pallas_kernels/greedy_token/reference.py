"""Two maxima: an argmax that carries ids along is no vector code on a CPU."""

import jax
import jax.numpy as jnp

# Logits a block.
_BLOCK = 128


def greedy_token_reference(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`greedy_token`: the largest of each block, and then where it lies in one block."""
  vocab = logits.shape[1]
  size = min(_BLOCK, vocab)
  whole = vocab // size * size
  largest = logits[:, :whole].reshape(-1, whole // size, size).max(axis=2)
  if whole < vocab:
    largest = jnp.concatenate([largest, logits[:, whole:].max(axis=1, keepdims=True)], axis=1)
  # The last block begins early enough to be whole; what it shares with the one before is smaller, or that were taken.
  first = jnp.minimum(jnp.argmax(largest, axis=1).astype(jnp.int32) * size, vocab - size)
  block = jax.vmap(lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, size))(logits, first)
  # Zero where all are finite. On a CPU a sum is vector code, `isfinite` and `all` are not, and `max` loses NaN.
  nothing = (logits - logits).sum(axis=1)
  return first + jnp.argmax(block, axis=1).astype(jnp.int32), nothing == 0
