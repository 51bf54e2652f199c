"""Which forms of weights native products read."""

from typing import Any

from pallas_kernels.weights.base import form_of
from pallas_kernels.weights.form import INT8


def form_objection(weight: Any) -> str | None:
  """Why native products cannot read a quantised weight of its form, or None; None for all other weights."""
  form = form_of(weight)
  if form is None or form == INT8:
    return None
  return f"{form.code} weights in groups of {form.group}, laid out as {form.layout!r}: expected {INT8}"
