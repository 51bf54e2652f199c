"""Which of a decoder's parameters `load(weights="int8")` holds as int8."""

import re

# The products of a decode step with whole weights. Norms, biases, routers and the gate of a shared expert are small and
# decide much; MLA's expansions (key_up, value_up) are absorbed into other products, and stay as well.
_PRODUCTS = re.compile(
  r"layers\.\d+\.(attention\.(query|key|value|output|query_down|query_up|latent)|ffn\.(shared\.)?(gate_up|down))"
)

WEIGHTS = ("int8",)
"""What weights can be held as, beside floating point."""


def check_weights(weights: str | None) -> None:
  """Raises ValueError, naming the choices, unless `weights` is one of `WEIGHTS` or None."""
  if weights is not None and weights not in WEIGHTS:
    raise ValueError(f"weights is {weights!r}: choose {', '.join(map(repr, WEIGHTS))}, or None to keep the dtype")


def is_int8(parameter: str, *, tied: bool) -> bool:
  """Whether the parameter of that dotted path is int8, in a model whose head is the embedding or is not.

  An embedding that is the head as well is int8, one scale a token; its rows are widened as they are looked up.
  """
  return bool(_PRODUCTS.fullmatch(parameter)) or parameter == ("embedding" if tied else "head")
