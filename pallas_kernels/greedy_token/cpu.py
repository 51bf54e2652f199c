"""`greedy_token` in native code: one vectorised pass over each row's logits."""

import jax
import jax.numpy as jnp

from pallas_kernels.cpu import cpu_call


def cpu_objection(logits: jax.Array) -> str | None:
  """Says why the native code cannot take these arguments, or None."""
  return None if logits.dtype == jnp.float32 else f"logits in {logits.dtype}: float32"


def greedy_token_cpu(logits: jax.Array, *, instructions: str | None = None) -> tuple[jax.Array, jax.Array]:
  """`greedy_token` in C++ (pallas_kernels/cpu/src/greedy_token.cc)."""
  rows = logits.shape[:1]
  results = (jax.ShapeDtypeStruct(rows, jnp.int32), jax.ShapeDtypeStruct(rows, jnp.bool_))
  ids, finite = cpu_call("greedy_token", results, logits, instructions=instructions)
  return ids, finite
