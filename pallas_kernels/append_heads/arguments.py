"""What the implementations of `append_heads` and `prompt_heads` are given."""

import dataclasses
from typing import Literal, NamedTuple, TypeAlias

import jax

from pallas_kernels.block_tables import BlockTables

NormedOver: TypeAlias = Literal["head", "projection"]
"""What one mean square of a query/key norm is taken over: each head, or all heads of a projection together."""


class StepHeads(NamedTuple):
  """The arrays of `append_heads`.

  Attributes:
    query: projected queries [B, N * H], heads side by side.
    key: projected keys [B, G * H].
    value: projected values [B, G * H].
    cache_key: keys so far [B, G, C, H], or a pool of blocks [P, G, 32, H].
    cache_value: values so far, likewise.
    positions: where each row writes, int32 [B].
    cos: real parts of the rotation [B, H / 2], float32.
    sin: imaginary parts.
    query_norm: scale of the norm of queries, [H] or [N * H], or None.
    key_norm: scale of the norm of keys, [H] or [G * H], or None.
    blocks: where rows find their positions in a pool, or None for a dense cache.
  """

  query: jax.Array
  key: jax.Array
  value: jax.Array
  cache_key: jax.Array
  cache_value: jax.Array
  positions: jax.Array
  cos: jax.Array
  sin: jax.Array
  query_norm: jax.Array | None
  key_norm: jax.Array | None
  blocks: BlockTables | None


class PromptHeads(NamedTuple):
  """The arrays of `prompt_heads`, for T = B * L tokens.

  Attributes:
    query: projected queries [T, N * H], heads side by side.
    key: projected keys [T, G * H].
    value: projected values [T, G * H].
    cos: real parts of the rotation [B, L, H / 2], float32.
    sin: imaginary parts.
    query_norm: scale of the norm of queries, [H] or [N * H], or None.
    key_norm: scale of the norm of keys, [H] or [G * H], or None.
  """

  query: jax.Array
  key: jax.Array
  value: jax.Array
  cos: jax.Array
  sin: jax.Array
  query_norm: jax.Array | None
  key_norm: jax.Array | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeadOptions:
  """The static options of both ops.

  Attributes:
    normed_over: what a norm's mean square is taken over. The length of a scale does not tell: with one head, a head's
      scale is as long as the projection's.
    norm_eps: added to the mean square.
    clip: bound on magnitudes, or None.
  """

  normed_over: NormedOver
  norm_eps: float
  clip: float | None


def check_norm(name: str, scale: jax.Array | None, width: int, head_dim: int, normed_over: NormedOver) -> None:
  """Raises ValueError unless `scale` is as long as what one mean square is taken over: a head, or the projection."""
  if normed_over not in ("head", "projection"):
    raise ValueError(f"normed_over is {normed_over!r}: give 'head' or 'projection'")
  expected = head_dim if normed_over == "head" else width
  if scale is not None and scale.shape != (expected,):
    raise ValueError(
      f"{name} has shape {scale.shape}: normed_over={normed_over!r} expects ({expected},); "
      f"heads are {head_dim} wide, the projection {width}"
    )


def cpu_attributes(arrays: StepHeads | PromptHeads, options: HeadOptions) -> dict[str, float]:
  """The attributes that the native code reads of both ops' calls."""
  return {
    "norm_eps": float(options.norm_eps),
    "clip": float(options.clip or 0.0),
    "query_norm": int(arrays.query_norm is not None),
    "key_norm": int(arrays.key_norm is not None),
    "norm_projection": int(options.normed_over == "projection"),
  }
