"""Measured block sizes of GPU kernels: one JSON file a device in `tuned/`, written by `benchmarks.kernels.tune`."""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pallas_kernels.gpu.block_sizes import Blocks, Question

FOLDER = Path(__file__).with_name("tuned")
_BLOCK_FIELDS = ("columns", "inner", "warps", "stages")
_FIELDS = {"device": str, "measured": str, "how": str, "blocks": list}


def path_of(device_kind: str) -> Path:
  """The file of a device, by JAX's name of its kind: "NVIDIA H200" is `nvidia-h200.json`."""
  return FOLDER / f"{re.sub(r'[^a-z0-9]+', '-', device_kind.lower()).strip('-')}.json"


def devices() -> list[str]:
  """The kinds of devices that have a file."""
  return [json.loads(path.read_text())["device"] for path in sorted(FOLDER.glob("*.json"))]


@functools.cache
def tuned(device_kind: str) -> Mapping[Question, Blocks]:
  """The device's measured block sizes; empty where nobody has measured.

  Raises:
    ValueError: the file has a wrong field. The message names it.
  """
  path = path_of(device_kind)
  if not device_kind or not path.is_file():
    return MappingProxyType({})
  return read_table(path, device_kind)


def read_table(path: Path, device_kind: str) -> Mapping[Question, Blocks]:
  """Reads and checks one file.

  Raises:
    ValueError: a field is missing, of another type, out of range or given twice; or the file is another device's.
  """
  table = json.loads(path.read_text())
  for name, kind in _FIELDS.items():
    if not isinstance(table.get(name), kind):
      raise ValueError(f"{path}: {name} is {table.get(name)!r}: expected a {kind.__name__}")
  if table["device"] != device_kind:
    raise ValueError(f"{path}: device is {table['device']!r}: expected {device_kind!r}, as JAX names the device")
  found: dict[Question, Blocks] = {}
  for place, entry in enumerate(table["blocks"]):
    question, blocks = _read_entry(f"{path}: blocks[{place}]", entry)
    if question in found:
      raise ValueError(f"{path}: blocks[{place}] is a second entry for {question}: leave one of them out")
    found[question] = blocks
  return MappingProxyType(found)


def _read_entry(where: str, entry: Any) -> tuple[Question, Blocks]:
  if not isinstance(entry, dict):
    raise ValueError(f"{where} is {entry!r}: expected an object")
  kernel, sizes = entry.get("kernel"), entry.get("sizes")
  if not isinstance(kernel, str) or not kernel:
    raise ValueError(f"{where}.kernel is {kernel!r}: expected a kernel's name")
  if not isinstance(sizes, list) or not sizes or not all(_is_size(size) for size in sizes):
    raise ValueError(f"{where}.sizes is {sizes!r}: expected whole numbers of at least 1")
  for name in _BLOCK_FIELDS:
    if not _is_size(entry.get(name)):
      raise ValueError(f"{where}.{name} is {entry.get(name)!r}: expected a whole number of at least 1")
  return (kernel, tuple(sizes)), Blocks(**{name: entry[name] for name in _BLOCK_FIELDS})


def _is_size(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def table_text(device_kind: str, measured: str, how: str, entries: list[dict[str, Any]]) -> str:
  """The text of a device's file: `entries` hold kernel, sizes and the fields of `Blocks`, and may hold more."""
  facts = json.dumps({"device": device_kind, "measured": measured, "how": how}, indent=2).removesuffix("\n}")
  lines = ",\n".join(f"    {json.dumps(entry)}" for entry in entries)
  return f'{facts},\n  "blocks": [\n{lines}\n  ]\n}}\n'
