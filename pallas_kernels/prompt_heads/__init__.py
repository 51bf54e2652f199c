"""What whole prompts do between projections and attention: `append_heads` of many positions, with no cache before."""

from jaxtyping import Array, Float, Float32

from pallas_kernels.cpu import unavailable
from pallas_kernels.dispatch import CPU, Choice, Implementation, Op
from pallas_kernels.prompt_heads.cpu import cpu_objection, prompt_heads_cpu
from pallas_kernels.prompt_heads.reference import prompt_heads_reference

__all__ = ["PROMPT_HEADS", "prompt_heads"]

PROMPT_HEADS = Op(
  "prompt_heads",
  (
    Implementation(
      "cpu", prompt_heads_cpu, "one native call", (CPU,), cpu_objection, unavailable=unavailable, bound=True
    ),
    Implementation("reference", prompt_heads_reference, "plain JAX, which XLA fuses as it can"),
  ),
)


def prompt_heads(
  query: Float[Array, "T NH"],
  key: Float[Array, "T GH"],
  value: Float[Array, "T GH"],
  cos: Float32[Array, "B L half"],
  sin: Float32[Array, "B L half"],
  *,
  query_norm: Float[Array, "_"] | None = None,
  key_norm: Float[Array, "_"] | None = None,
  norm_eps: float = 0.0,
  clip: float | None = None,
  implementation: Choice = None,
) -> tuple[Float[Array, "B N L H"], Float[Array, "B G L H"], Float[Array, "B G L H"]]:
  """Norms, clips and turns the queries and keys of prompts, and lays heads before positions.

  A norm over a whole projection comes before the clip, a norm over each head after it.

  Args:
    query: projected queries of T = B * L tokens, heads side by side.
    key: projected keys.
    value: projected values; they are clipped, and neither normed nor turned.
    cos: what rotation multiplies pairs by, real parts: a cosine, times a magnitude where a model has one.
    sin: imaginary parts.
    query_norm: scale of an RMS norm of queries: [H] for each head, [N * H] over the projection, None for none.
    key_norm: likewise of keys.
    norm_eps: added to the mean square.
    clip: bound on magnitudes, or None.
    implementation: "cpu", "reference", or None for the best on the platform.

  Returns:
    Queries, keys and values by head.

  Raises:
    ValueError: widths that are no multiple of H, tokens that are not B * L, or an unknown implementation.
    NotImplementedError: the named implementation cannot take these arguments.
  """
  rows, length, half = cos.shape
  if any(x.shape[0] != rows * length or x.shape[1] % (2 * half) for x in (query, key, value)):
    raise ValueError(f"query {query.shape} and key {key.shape} do not fit cosines {cos.shape}, [B, L, H / 2]")
  return PROMPT_HEADS(
    implementation, query, key, value, cos, sin, query_norm, key_norm, norm_eps=float(norm_eps), clip=clip
  )
