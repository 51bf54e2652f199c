"""`append_latents` in plain JAX."""

import jax

from pallas_kernels.append_heads.reference import write_positions
from pallas_kernels.append_latents.arguments import StepLatents


def append_latents_reference(arrays: StepLatents) -> jax.Array:
  """`append_latents` as the write of a single head."""
  latent, cache, positions, blocks = arrays
  return write_positions(cache[:, None], latent[:, None], positions, blocks)[:, 0]
