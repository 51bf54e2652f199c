"""`prompt_heads` in one native call: XLA's CPU code computes cosines again for every number that it rotates."""

import jax

from pallas_kernels.append_heads.arguments import HeadOptions, PromptHeads, cpu_attributes
from pallas_kernels.cpu import cpu_call


def cpu_objection(arrays: PromptHeads, *, options: HeadOptions) -> str | None:
  """Says why the native code cannot take these arguments, or None."""
  query, key, value = arrays.query, arrays.key, arrays.value
  for array in (query, key, value, arrays.query_norm, arrays.key_norm):
    if array is not None and (array.dtype != query.dtype or array.dtype.name not in ("float32", "bfloat16")):
      return f"queries of {query.dtype} with {array.dtype}: all float32, or all bfloat16"
  if key.shape != value.shape:
    return f"keys {key.shape} and values {value.shape}: equal widths"
  return None


def prompt_heads_cpu(
  arrays: PromptHeads, *, options: HeadOptions, instructions: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`prompt_heads` in C++ (pallas_kernels/cpu/src/append_heads.cc)."""
  rows, length, half = arrays.cos.shape
  results = [
    jax.ShapeDtypeStruct((rows, x.shape[1] // (2 * half), length, 2 * half), x.dtype)
    for x in (arrays.query, arrays.key, arrays.value)
  ]
  new_query, new_key, new_value = cpu_call(
    "prompt_heads",
    results,
    *(array for array in arrays if array is not None),
    instructions=instructions,
    aliases=None,
    **cpu_attributes(arrays, options),
  )
  return new_query, new_key, new_value
