"""Which forms of weights native products read."""

from typing import Any

from pallas_kernels.weights.base import Weight, form_of
from pallas_kernels.weights.form import INT8


def form_objection(weight: Weight) -> str | None:
  """Why native products cannot read a quantised weight of its form, or None; None for all other weights."""
  form = form_of(weight)
  if form is None:
    return None
  for leaf in ("zeros", "gains"):
    if getattr(weight, leaf, None) is not None:
      return f"weights with {leaf} of their own"
  scales: Any = getattr(weight, "scales", None)
  if form == INT8:
    return None if scales.dtype.name == "float32" else f"int8 weights with scales of {scales.dtype}: float32"
  if form.code != "int4" or form.group is None or form.group % 32 or form.layout != "interleaved":
    return f"weights in {form}: expected int8 as {INT8}, or int4 in groups of 32 or a multiple of it, interleaved"
  if scales.dtype.name not in ("bfloat16", "float16"):
    return f"int4 weights with scales of {scales.dtype}: bfloat16 or float16"
  return None
