"""Weights held in every form that kernels for GPUs read, made from numbers as checkpoints' own tools would."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from pallas_kernels import QuantizedWeight, quantize, relayout
from pallas_kernels.gates.forms import Held
from pallas_kernels.weights.form import CODES
from pallas_kernels.weights.layouts import packed, relaid

_FLOATS = {"e2m1": ml_dtypes.float4_e2m1fn, "e4m3": ml_dtypes.float8_e4m3fn}


def held(weight, how: Held) -> QuantizedWeight:
  """The weight [..., out, in] in that form, as JAX arrays."""
  weight, form = np.asarray(weight, np.float32), how.form
  if CODES[form.code].whole and not how.zeros:
    made = quantize(weight.astype(jnp.bfloat16), form)
  else:
    numbers, scales, zeros = _rounded(weight, how)
    flat = relaid(form, "rows")
    values = packed(numbers, flat)
    made = QuantizedWeight(
      values=values, scales=scales, zeros=zeros, form=flat, matrix=weight.shape[-2:], numbers="bfloat16"
    )
  return jax.tree.map(jnp.asarray, relayout(made, form.layout))


def _rounded(weight, how):
  """Stored numbers of the weight's shape, scales and zeros of its groups."""
  form, inner = how.form, weight.shape[-1]
  group = form.group or inner
  filled = np.pad(weight, [*[(0, 0)] * (weight.ndim - 1), (0, -inner % group)])
  grouped = filled.reshape(*weight.shape[:-1], -1, group)
  zeros = None
  if how.zeros:
    low, high = np.minimum(grouped.min(-1), 0), np.maximum(grouped.max(-1), 0)
    scales = np.where(high > low, (high - low) / 15, 1).astype(how.scales)
    zeros = np.clip(np.rint(-low / scales.astype(np.float32)), 0, 15).astype(np.uint8)
    stored = np.clip(np.rint(grouped / scales.astype(np.float32)[..., None]) + zeros[..., None], 0, 15)
  else:
    largest = np.abs(grouped).max(-1) / CODES[form.code].largest
    largest = np.where(largest > 0, largest, 1)
    powers = np.dtype(how.scales) == np.dtype(ml_dtypes.float8_e8m0fnu)
    scales = (np.exp2(np.ceil(np.log2(largest))) if powers else largest).astype(how.scales)
    stored = (grouped / scales.astype(np.float32)[..., None]).astype(_FLOATS[form.code]).view(np.uint8)
  return stored.astype(np.uint8).reshape(filled.shape)[..., :inner], scales, zeros
