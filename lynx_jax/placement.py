"""How a parameter is held, answered from what its declaration says of it: its role, its axes and its shape.

A module of `lynx_jax.models` declares each of its parameters once. Loading, random weights and estimates ask here for
the dtype, for the kind of weight (floating point, 8 or 4 bits), and for the form in which the backend reads it fastest.
No other file tells parameters apart by their names.
"""

import dataclasses
import enum
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Num, Shaped
from numpy.typing import DTypeLike

from pallas_kernels import (
  INT4,
  INT8,
  BFloat16Bits,
  Form,
  QuantizedWeight,
  Weight,
  abstract_quantized,
  bits_of,
  quantize,
  relayout,
)
from pallas_kernels.cpu.huge_pages import aligned
from pallas_kernels.weights.base import form_of
from pallas_kernels.weights.form import RUN

WEIGHTS = ("int8", "int4")
"""What weights can be quantised to: all large matrices in 8 bits, or experts in 4 and others in 8."""
FLOAT = "float"
"""What asks for plain numbers of weights that files hold quantised."""


class Role(enum.Enum):
  """What a parameter is for."""

  EMBEDDING = "rows that are looked up by token"
  HEAD = "the output head, or an embedding that is the head as well"
  PROJECTION = "a matrix of attention, of a dense network or of a shared one"
  EXPERT = "a matrix of every expert, stacked"
  EXPANSION = "what expands a latent to the keys or values of every head"
  ROUTER = "what routing decides by: router logits, and the gate of a shared network"
  SELECTION_BIAS = "a bias of the choice of experts alone"
  BIAS = "a bias, or an attention sink"
  NORM = "the scale of a norm"


_QUANTISED = (Role.PROJECTION, Role.EXPERT, Role.HEAD)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
  """One parameter's declaration.

  Attributes:
    shape: of the parameter.
    axes: one word for each axis, such as "E F2 D": experts, gate rows before up rows, model width.
    role: what the parameter is for.
  """

  shape: tuple[int, ...]
  axes: str
  role: Role

  def __post_init__(self) -> None:
    if len(self.axes.split()) != len(self.shape):
      raise ValueError(f"Declared.axes is {self.axes!r}: expected one word for each axis of {self.shape}")


def check_weights(weights: str | None) -> None:
  """Raises ValueError, naming the choices, unless `weights` is one of `WEIGHTS`, `FLOAT` or None."""
  choices = (*WEIGHTS, FLOAT)
  if weights is not None and weights not in choices:
    raise ValueError(f"weights is {weights!r}: choose {', '.join(map(repr, choices))}, or None to keep what files hold")


def dtype_of(role: Role, dtype: DTypeLike) -> np.dtype:
  """The dtype of a parameter of that role in a model of `dtype`."""
  # A selection bias can be many nats large, and its last bits then decide between experts.
  return np.dtype(np.float32) if role is Role.SELECTION_BIAS else np.dtype(dtype)


def form_for(role: Role, weights: str | None) -> Form | None:
  """The form in which a model loaded with `weights` holds parameters of that role; None is floating point.

  Only the large matrices are quantised. Norms, biases, routers and the gate of a shared network are small and
  sensitive, so they keep their dtype. So do the expansions of a latent, which a decode step applies to queries and not
  to rows. Of a batch's rows few meet an expert, and all meet every other matrix: 4 bits save the most time, and cost
  the least quality, in experts.
  """
  if weights in (None, FLOAT) or role not in _QUANTISED:
    return None
  return read_here(INT4 if weights == "int4" and role is Role.EXPERT else INT8)


def read_here(form: Form) -> Form:
  """The form in the layout that the default backend reads.

  GPUs read tiles, CPUs whole numbers of four bits interleaved. Forms that only plain JAX reads stay as files have them.
  """
  backend, whole_runs = jax.default_backend(), (form.group or RUN) % RUN == 0
  if backend == "gpu" and whole_runs:
    return dataclasses.replace(form, layout="tiles")
  interleaved = backend == "cpu" and whole_runs and form.code == "int4"
  return dataclasses.replace(form, layout="interleaved" if interleaved else "rows")


def kept(stored: QuantizedWeight, role: Role, weights: str | None) -> bool:
  """Whether a parameter that files hold quantised stays so, given what `load` was asked for.

  `stored` may be abstract. Parameters of other roles than `form_for` quantises are dequantised: norms, routers and the
  expansions of a latent are read as plain arrays.
  """
  if role not in _QUANTISED or weights == FLOAT:
    return False
  plain = stored.zeros is None and stored.gains is None
  return weights is None or (plain and read_here(stored.form) == form_for(role, weights))


def _layout(stored: QuantizedWeight) -> str:
  """The layout in which the default backend reads a weight that files hold quantised; on GPUs with zeros of its own."""
  plain = stored.gains is None and (stored.zeros is None or jax.default_backend() == "gpu")
  return read_here(stored.form).layout if plain else "rows"


def held_as_bits(role: Role, dtype: DTypeLike) -> bool:
  """Whether the default backend reads a floating parameter of that role fastest as bfloat16 bits."""
  return role is Role.EXPERT and np.dtype(dtype) == jnp.bfloat16 and jax.default_backend() == "cpu"


def place(array: Num[np.ndarray, "..."] | QuantizedWeight, role: Role, weights: str | None = None) -> Weight:
  """A parameter read from a file, on the default device, in the form in which its role is held.

  One that is quantised already keeps its numbers, in the layout that the backend reads.

  Raises ValueError where `weights` is given and the array has NaN or infinity.
  """
  if form_of(array) is not None:
    held = cast(QuantizedWeight, array)
    return jax.tree.map(_on_device, relayout(held, _layout(held)))
  array, form = cast(np.ndarray, array), form_for(role, weights)
  if form is not None:
    return jax.tree.map(_on_device, quantize(array, form))
  return jax.tree.map(_on_device, bits_of(array) if held_as_bits(role, array.dtype) else array)


def _on_device(leaf: Shaped[np.ndarray, "..."]) -> jax.Array:
  return jax.device_put(aligned(leaf))


def abstract(
  declared: Declared, dtype: DTypeLike, weights: str | None = None, stored: QuantizedWeight | None = None
) -> Weight | jax.ShapeDtypeStruct:
  """What `load` makes of the parameter in a model of `dtype`, as shapes and dtypes.

  `stored` is what files hold of it quantised, as shapes and dtypes.
  """
  shape, dtype = declared.shape, dtype_of(declared.role, dtype)
  if stored is not None and kept(stored, declared.role, weights):
    form = dataclasses.replace(stored.form, layout=_layout(stored))
    zeros: Any = None if stored.zeros is None else stored.zeros.dtype
    return abstract_quantized(shape, form, dtype, stored.scales.dtype, zeros=zeros, gains=stored.gains is not None)
  form = form_for(declared.role, weights)
  if form is not None:
    return abstract_quantized(shape, form, dtype)
  if held_as_bits(declared.role, dtype):
    return BFloat16Bits(jax.ShapeDtypeStruct(shape, np.uint16))
  return jax.ShapeDtypeStruct(shape, dtype)
