"""Quantised parameters in files: what each is called there, made from floats, and put together again.

A parameter `layers.0.ffn.gate_up` of four bits is stored as several arrays, `layers.0.ffn.gate_up.int4_g32.values`,
`layers.0.ffn.gate_up.int4_g32.scales` and, where it has them, `.zeros` and `.gains`, in the layout `rows` of
`pallas_kernels.Form`. The names say the form.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from checkpoints_convert.packed_rules import LEAVES, Held, leaves
from checkpoints_convert.parameters import Parameters
from checkpoints_convert.rules import Shapes
from pallas_kernels import Form, QuantizedWeight, abstract_quantized, quantize
from pallas_kernels.weights.form import CODES

Forms: TypeAlias = Mapping[str, Form]
"""Parameters that are to be quantised, by path, with their forms in the layout `rows`."""

_STORED = re.compile(rf"(?P<path>.+)\.(?P<code>{'|'.join(CODES)})(?:_g(?P<group>\d+))?\.(?P<leaf>{'|'.join(LEAVES)})")


def stored_names(path: str, held: QuantizedWeight) -> dict[str, str]:
  """The names under which the arrays of a parameter are stored, each with the array's name in the weight."""
  return {f"{path}.{held.form.name}.{leaf}": leaf for leaf in leaves(held)}


def held_in(stored: Mapping[str, np.dtype], shapes: Shapes) -> dict[str, QuantizedWeight]:
  """The parameters among `shapes` that are stored quantised, as shapes and dtypes, given the dtypes of all arrays.

  Raises ValueError where a form cannot be.
  """
  forms: dict[str, Form] = {}
  found: dict[str, dict[str, np.dtype]] = {}
  for name, dtype in stored.items():
    if (match := _STORED.fullmatch(name)) is not None:
      group = match["group"]
      forms[match["path"]] = Form(code=match["code"], group=None if group is None else int(group))
      found.setdefault(match["path"], {})[match["leaf"]] = dtype
  return {
    path: abstract_quantized(
      shapes[path], form, np.float32, found[path].get("scales"), zeros=found[path].get("zeros"),
      gains="gains" in found[path],
    )
    for path, form in forms.items()
    if path in shapes
  }  # fmt: skip


def made_of(shapes: Shapes, forms: Forms) -> dict[str, QuantizedWeight]:
  """What `quantised` makes of the parameters in `forms`, as shapes and dtypes."""
  return {path: abstract_quantized(shapes[path], form, np.float32) for path, form in forms.items()}


def stored_arrays(
  shapes: Shapes, dtypes: Mapping[str, np.dtype], held: Held
) -> tuple[dict[str, tuple[int, ...]], dict[str, np.dtype]]:
  """Shape and dtype of every stored array of the parameters `shapes`, of which those in `held` are quantised."""
  sizes: dict[str, tuple[int, ...]] = {}
  types: dict[str, np.dtype] = {}
  for path, shape in shapes.items():
    if path not in held:
      sizes[path], types[path] = shape, dtypes[path]
      continue
    for name, leaf in stored_names(path, held[path]).items():
      array = getattr(held[path], leaf)
      sizes[name], types[name] = tuple(array.shape), np.dtype(array.dtype)
  return sizes, types


def quantised(parameters: Parameters, forms: Forms) -> Parameters:
  """The parameters, of which those in `forms`, which are floats, are quantised when they are read."""
  if not forms:
    return parameters

  def read(paths: Collection[str]) -> Iterator[tuple[str, Any]]:
    for path, array in parameters.read(paths):
      yield path, quantize(array, forms[path]) if path in forms else array

  held = {**parameters.held, **made_of(parameters.shapes, forms)}
  return dataclasses.replace(parameters, read=read, held=held)


def stored(parameters: Parameters) -> Parameters:
  """The stored arrays of parameters."""
  held = parameters.held
  sizes, types = stored_arrays(parameters.shapes, parameters.dtypes, held)
  owner = {name: path for path, one in held.items() for name in stored_names(path, one)}

  def read(names: Collection[str]) -> Iterator[tuple[str, Any]]:
    wanted = set(names)
    for path, array in parameters.read(sorted({owner.get(name, name) for name in wanted})):
      if path not in held:
        yield path, array
        continue
      for name, leaf in stored_names(path, held[path]).items():
        if name in wanted:
          yield name, getattr(array, leaf)

  return Parameters(shapes=sizes, dtypes=types, read=read)


def together(
  arrays: Iterable[tuple[str, np.ndarray]], held: Held, dtypes: Mapping[str, np.dtype]
) -> Iterator[tuple[str, np.ndarray | QuantizedWeight]]:
  """Stored arrays as parameters, each as soon as its last array is there; those in `held` stand for `dtypes`."""
  owner = {name: path for path, one in held.items() for name in stored_names(path, one)}
  waiting: dict[str, np.ndarray] = {}
  for name, array in arrays:
    if name not in owner:
      yield name, array
      # Otherwise it would be there until the next one has been read.
      del array
      continue
    waiting[name] = array
    del array
    path = owner[name]
    names = stored_names(path, held[path])
    if all(part in waiting for part in names):
      parts = {leaf: waiting.pop(part) for part, leaf in names.items()}
      yield path, dataclasses.replace(held[path], numbers=dtypes[path].name, **parts)
      del parts
