"""What a prefill does between its projections and attention: `append_heads` for whole prompts, without a cache."""

from jaxtyping import Array, Float, Float32

from pallas_kernels.append_heads.arguments import HeadOptions, NormedOver, PromptHeads, check_norm
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
  normed_over: NormedOver = "head",
  norm_eps: float = 0.0,
  clip: float | None = None,
  implementation: Choice = None,
) -> tuple[Float[Array, "B N L H"], Float[Array, "B G L H"], Float[Array, "B G L H"]]:
  """Norms, clips and rotates the queries and keys of prompts, and puts the axis of heads before that of positions.

  A norm over a whole projection comes before the clip, a norm over each head after it.

  Args:
    query: projected queries of T = B * L tokens, heads side by side.
    key: projected keys.
    value: projected values; they are clipped, but neither normed nor rotated.
    cos: real parts of the complex numbers that rotate pairs: cosines, times a magnitude if the model has one.
    sin: imaginary parts.
    query_norm: scale of an RMS norm of queries: [H] over each head, [N * H] over the projection; None for no norm.
    key_norm: scale of an RMS norm of keys: [H] or [G * H]; None for no norm.
    normed_over: what one mean square is taken over, "head" or "projection".
    norm_eps: added to the mean square.
    clip: bound on magnitudes; None for no bound.
    implementation: "cpu", "reference", a list of these, or None for the best on the platform.

  Returns:
    Queries, keys and values by head.

  Raises:
    ValueError: widths that are no multiple of H, tokens that are not B * L, a scale of another length than
      `normed_over` says, or an unknown implementation.
    NotImplementedError: the named implementation cannot take these arguments.
  """
  rows, length, half = cos.shape
  if any(x.shape[0] != rows * length or x.shape[1] % (2 * half) for x in (query, key, value)):
    raise ValueError(f"query {query.shape} and key {key.shape} do not fit cosines {cos.shape}, [B, L, H / 2]")
  check_norm("query_norm", query_norm, query.shape[1], 2 * half, normed_over)
  check_norm("key_norm", key_norm, key.shape[1], 2 * half, normed_over)
  arrays = PromptHeads(query, key, value, cos, sin, query_norm, key_norm)
  options = HeadOptions(normed_over=normed_over, norm_eps=float(norm_eps), clip=clip)
  return PROMPT_HEADS(implementation, arrays, options=options)
