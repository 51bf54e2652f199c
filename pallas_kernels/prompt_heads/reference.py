"""`prompt_heads` in plain JAX, one step after another."""

import jax

from pallas_kernels.append_heads.arguments import HeadOptions, PromptHeads
from pallas_kernels.append_heads.reference import split_heads
from pallas_kernels.rotary import rotate


def prompt_heads_reference(arrays: PromptHeads, *, options: HeadOptions) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`prompt_heads` in plain JAX."""
  cos, sin = arrays.cos, arrays.sin
  query, key, value = (
    split_heads(x.reshape(*cos.shape[:2], -1), 2 * cos.shape[2], scale, options)
    for x, scale in ((arrays.query, arrays.query_norm), (arrays.key, arrays.key_norm), (arrays.value, None))
  )
  return rotate(query, cos, sin).swapaxes(1, 2), rotate(key, cos, sin).swapaxes(1, 2), value.swapaxes(1, 2)
