"""Quantised parameters in files: what each is called there, made from floats, and put together again.

A parameter `layers.0.ffn.gate_up` of four bits is stored as two arrays, `layers.0.ffn.gate_up.int4_g32.values` and
`layers.0.ffn.gate_up.int4_g32.scales`, in the layout `rows` of `pallas_kernels.Form`. The names say the form.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

import numpy as np

from checkpoints_convert.parameters import Parameters
from checkpoints_convert.rules import Shapes
from pallas_kernels import Form, QuantizedWeight, abstract_quantized, quantize
from pallas_kernels.weights.form import CODES

Forms: TypeAlias = Mapping[str, Form]
"""Parameters that are quantised, by path, with their forms in the layout `rows`."""

_STORED = re.compile(rf"(?P<path>.+)\.(?P<code>{'|'.join(CODES)})(?:_g(?P<group>\d+))?\.(?:values|scales)")


def stored_names(path: str, form: Form) -> tuple[str, str]:
  """The names of a parameter's values and scales."""
  group = "" if form.group is None else f"_g{form.group}"
  return f"{path}.{form.code}{group}.values", f"{path}.{form.code}{group}.scales"


def forms_of(names: Iterable[str]) -> dict[str, Form]:
  """The quantised parameters among stored arrays, by path, with their forms; ValueError where a form cannot be."""
  found = {}
  for name in names:
    if (match := _STORED.fullmatch(name)) is not None:
      group = match["group"]
      found[match["path"]] = Form(code=match["code"], group=None if group is None else int(group))
  return found


def stored_arrays(shapes: Shapes, dtypes: Mapping[str, np.dtype], forms: Forms) -> tuple[Shapes, dict[str, np.dtype]]:
  """Shape and dtype of every stored array of the parameters `shapes`, those without a form as they are."""
  sizes: dict[str, tuple[int, ...]] = {}
  types: dict[str, np.dtype] = {}
  for path, shape in shapes.items():
    if path not in forms:
      sizes[path], types[path] = shape, dtypes[path]
      continue
    held = abstract_quantized(shape, forms[path], dtypes[path])
    for name, leaf in zip(stored_names(path, forms[path]), (held.values, held.scales), strict=True):
      sizes[name], types[name] = leaf.shape, np.dtype(leaf.dtype)
  return sizes, types


def quantised(parameters: Parameters, forms: Forms) -> Parameters:
  """The stored arrays of parameters of floats, of which those in `forms` are quantised when they are read."""
  sizes, types = stored_arrays(parameters.shapes, parameters.dtypes, forms)
  owner = {name: path for path, form in forms.items() for name in stored_names(path, form)}

  def read(names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    wanted = set(names)
    for path, array in parameters.read(sorted({owner.get(name, name) for name in wanted})):
      if path not in forms:
        yield path, array
        continue
      held = quantize(array, forms[path])
      for name, leaf in zip(stored_names(path, forms[path]), (held.values, held.scales), strict=True):
        if name in wanted:
          yield name, leaf

  return Parameters(shapes=sizes, dtypes=types, read=read)


def together(
  arrays: Iterable[tuple[str, np.ndarray]], shapes: Shapes, dtypes: Mapping[str, np.dtype], forms: Forms
) -> Iterator[tuple[str, np.ndarray | QuantizedWeight]]:
  """Stored arrays as parameters, each as soon as its last array is there."""
  owner = {name: path for path, form in forms.items() for name in stored_names(path, form)}
  waiting: dict[str, np.ndarray] = {}
  for name, array in arrays:
    if name not in owner:
      yield name, array
      continue
    waiting[name] = array
    path = owner[name]
    names = stored_names(path, forms[path])
    if all(part in waiting for part in names):
      values, scales = (waiting.pop(part) for part in names)
      outs, inner = shapes[path][-2:]
      yield (
        path,
        QuantizedWeight(
          values=values, scales=scales, form=forms[path], matrix=(outs, inner), numbers=dtypes[path].name
        ),
      )
