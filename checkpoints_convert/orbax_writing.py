"""Writes an Orbax checkpoint group by group: parameters are made when their turn comes, and let go once written.

Orbax takes a tree of whole arrays. A leaf here only names a parameter; a handler of Orbax's own kind (`TypeHandler`)
makes the arrays of a group, has Orbax's NumPy handler write them, and waits. The checkpoint is an ordinary one.
"""

import asyncio
import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from checkpoints_convert.parameters import Parameters, groups


@dataclasses.dataclass(frozen=True)
class _Named:
  """A leaf of the tree: the path of a parameter, with what Orbax asks of an array before it is written."""

  path: str
  shape: tuple[int, ...]
  dtype: np.dtype
  nbytes: int


class _StoppedError(Exception):
  """The writing was given up."""


class _GroupHandler(ocp.type_handlers.NumpyHandler):
  """Writes `_Named` leaves as NumPy arrays."""

  def __init__(self, parameters: Parameters, wrote: Callable[[int], None], stop: threading.Event):
    super().__init__()
    self._parameters, self._wrote, self._stop = parameters, wrote, stop

  async def serialize(
    self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any] | None = None
  ) -> list[Any]:
    """Writes the leaves in groups, and returns when the last is on the disk."""
    entries = list(zip(values, infos, args or [ocp.SaveArgs()] * len(values), strict=True))
    for group in groups(entries, lambda entry: entry[0].nbytes):
      if self._stop.is_set():
        raise _StoppedError
      named, group_infos, group_args = zip(*group, strict=True)
      arrays = dict(self._parameters.read([leaf.path for leaf in named]))
      futures = await super().serialize([arrays.pop(leaf.path) for leaf in named], group_infos, group_args)
      for future in futures:
        await asyncio.to_thread(future.result)
      self._wrote(sum(leaf.nbytes for leaf in named))
    return []


def save(path: Path, parameters: Parameters, wrote: Callable[[int], None]) -> None:
  """Writes the checkpoint `path`; `wrote` is called with the bytes of each group once it is written.

  Orbax works in a thread of its own here. Where this one is interrupted, by Ctrl-C or by a signal's handler, the
  thread ends with the group that it writes, and only then does the interruption go on: nothing writes any more.
  """
  stop = threading.Event()
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    try:
      pool.submit(_save, path, parameters, wrote, stop).result()
    finally:
      stop.set()


def _save(path: Path, parameters: Parameters, wrote: Callable[[int], None], stop: threading.Event) -> None:
  # Orbax warns where its handlers know no jax.Array, though none is written.
  handlers = (_Named, _GroupHandler(parameters, wrote, stop)), (jax.Array, ocp.type_handlers.ArrayHandler())
  registry = ocp.type_handlers.create_type_handler_registry(*handlers)
  tree = {
    name: _Named(name, tuple(shape), parameters.dtypes[name], parameters.nbytes([name]))
    for name, shape in parameters.shapes.items()
  }
  # Compressing weights takes memory and time, here and at every load, for next to nothing.
  handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(path.absolute(), tree)
