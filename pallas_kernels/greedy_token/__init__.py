"""The end of a decode step: each row's most likely token."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int32

from pallas_kernels.cpu import unavailable
from pallas_kernels.dispatch import CPU, Choice, Implementation, Op
from pallas_kernels.greedy_token.cpu import cpu_objection, greedy_token_cpu
from pallas_kernels.greedy_token.reference import greedy_token_reference

__all__ = ["GREEDY_TOKEN", "GreedyToken", "greedy_token"]

GREEDY_TOKEN = Op(
  "greedy_token",
  (
    Implementation(
      "cpu", greedy_token_cpu, "one pass in native code", (CPU,), cpu_objection, unavailable=unavailable, bound=True
    ),
    Implementation("reference", greedy_token_reference, "maxima in plain JAX"),
  ),
)


class GreedyToken(NamedTuple):
  """What each row's logits say.

  Attributes:
    ids: the lowest id of the row's largest logit; any id where the row has NaN.
    finite: whether all of its logits are.
  """

  ids: Int32[Array, "B"]
  finite: Bool[Array, "B"]


def greedy_token(logits_BV: Float[Array, "B V"], *, implementation: Choice = None) -> GreedyToken:
  """The most likely token of each row, ties to the lowest id, and whether the row's logits are all finite.

  Args:
    logits_BV: one row a sequence.
    implementation: "cpu", "reference", or None for the best on the platform.

  Raises:
    ValueError: an unknown implementation.
    NotImplementedError: the named implementation cannot run here.
  """
  return GreedyToken(*GREEDY_TOKEN(implementation, logits_BV))
