"""`greedy_token` in plain JAX: argmax as two passes of `max`, because XLA does not vectorise argmax on CPUs."""

import jax
import jax.numpy as jnp

# How many logits a block has.
_BLOCK = 128


def greedy_token_reference(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Finds the first block with the largest logit, and then the place of that logit in the block."""
  vocab = logits.shape[1]
  size = min(_BLOCK, vocab)
  whole = vocab // size * size
  largest = logits[:, :whole].reshape(-1, whole // size, size).max(axis=2)
  if whole < vocab:
    largest = jnp.concatenate([largest, logits[:, whole:].max(axis=1, keepdims=True)], axis=1)
  # The last block begins early enough to be whole. Its overlap with the block before cannot hold the row's first
  # maximum: that block would have been chosen.
  first = jnp.minimum(jnp.argmax(largest, axis=1).astype(jnp.int32) * size, vocab - size)
  block = jax.vmap(lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, size))(logits, first)
  # The sum is zero where all logits are finite. XLA vectorises sums on CPUs, but not `isfinite` and `all`; `max` loses
  # NaN.
  nothing = (logits - logits).sum(axis=1)
  return first + jnp.argmax(block, axis=1).astype(jnp.int32), nothing == 0
