"""A decode step's latents written into their cache in place, one position a row."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from pallas_kernels.append_latents.arguments import StepLatents
from pallas_kernels.append_latents.cpu import append_latents_cpu, cpu_objection
from pallas_kernels.append_latents.reference import append_latents_reference
from pallas_kernels.block_tables import BlockTables, LatentsCache, check_pool
from pallas_kernels.checks import require
from pallas_kernels.cpu import unavailable
from pallas_kernels.dispatch import CPU, Choice, Implementation, Op

__all__ = ["APPEND_LATENTS", "append_latents"]

APPEND_LATENTS = Op(
  "append_latents",
  (
    Implementation(
      "cpu",
      append_latents_cpu,
      "native code that writes into the cache",
      (CPU,),
      cpu_objection,
      unavailable=unavailable,
      bound=True,
    ),
    Implementation("reference", append_latents_reference, "plain JAX; on CPUs a select over narrow caches"),
  ),
)


def append_latents(
  latent: Float[Array, "B W"],
  cache: LatentsCache,
  positions: Int32[Array, "B"],
  *,
  blocks: BlockTables | None = None,
  implementation: Choice = None,
) -> LatentsCache:
  """Writes what multi-head latent attention caches of a step: a latent and a rotary key a row.

  With `blocks` the cache is a pool, and several rows may belong to one sequence. No two rows may write one place.

  Args:
    latent: what each row writes.
    cache: latents so far: C positions of each row, or a pool of blocks. Its memory is reused for the result where the
      caller donates it.
    positions: where each row writes, in tokens; a position outside the cache is not written, nor is an absent row.
    blocks: where rows find their positions in the pool, and which rows are absent; None for a dense cache.
    implementation: "cpu", "reference", a list of these, or None for the best on the platform.

  Returns:
    The cache with each row's position written.

  Raises:
    ValueError: dtypes that differ, a pool whose blocks are not of 32 positions, or an unknown implementation.
    NotImplementedError: the named implementation cannot take these sizes.
  """
  require(latent.dtype == cache.dtype, "latent.dtype", latent.dtype, f"the cache's, {cache.dtype}")
  positions = positions.astype(jnp.int32)
  blocks = check_pool("cache", cache, positions, blocks)
  return APPEND_LATENTS(implementation, StepLatents(latent, cache, positions, blocks))
