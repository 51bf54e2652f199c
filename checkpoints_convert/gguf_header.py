"""The header of a GGUF file: what it says of its model, and where its tensors lie.

All numbers are little-endian. The header is four bytes, a version, two counts, that many keys with values, and that
many tensors with shapes, types and offsets. Reference: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md,
versions 2 and 3.

A file may come from anybody. What it claims is held against its size before anything is made of it, so that reading a
header takes memory and time in proportion to the file, and never more than `_MOST_ENTRIES` values of a list.
"""

import contextlib
import dataclasses
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.gguf_types import TYPES
from checkpoints_convert.reader import corrupt

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_FLOAT32, _FLAG, _TEXT, _LIST = 6, 7, 8, 9
# Types of numbers, as `struct` and NumPy call them.
_NUMBERS: Mapping[int, str] = {
  0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", _FLOAT32: "f", _FLAG: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_COUNT, _CODE = "Q", "I"
_STRUCTS = {code: struct.Struct(f"<{code}") for code in _NUMBERS.values()}
# The largest vocabularies have 300 thousand tokens, and half a million merges.
_MOST_ENTRIES = 1 << 24
_MOST_KEYS = 1 << 16
_MOST_TENSORS = 1 << 20
_MOST_AXES = 4
_ALIGNMENT = 32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
  """One tensor of a file.

  Attributes:
    shape: of its numbers, in the order of NumPy; the file gives it the other way round.
    code: its type, such as `F32` or `Q4_K`.
    offset: of its first byte in the file.
    nbytes: its size there.
  """

  shape: tuple[int, ...]
  code: str
  offset: int
  nbytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Header:
  """What a file says before its tensors' data.

  Attributes:
    metadata: values by key. Numbers are Python's, those of 32 bits as the shortest decimals that mean them. A list of
      numbers is a NumPy array, a list of texts a list.
    tensors: the tensors by name.
  """

  metadata: Mapping[str, Any]
  tensors: Mapping[str, Tensor]


def read_header(path: Path) -> Header:
  """The header of a file.

  Raises:
    CheckpointError: it is no GGUF file of a known version, or is truncated or corrupt; the message names the file.
    OSError: the file cannot be opened.
  """
  with path.open("rb") as file:
    start = file.read(8)
    if start[:4] != MAGIC:
      raise CheckpointError(f"{path} does not begin with {MAGIC.decode()}, as GGUF files do: download it again")
    if len(start) < 8:
      raise corrupt(path, "its header is cut off")
    version = int.from_bytes(start[4:], "little")
    if version not in _VERSIONS:
      # A version that is small the other way round was written so.
      swapped = int.from_bytes(start[4:], "big") in _VERSIONS
      what = "is big-endian" if swapped else f"is GGUF of version {version}"
      raise CheckpointError(f"{path} {what}: not supported; supported: versions 2 and 3, little-endian")
    with contextlib.closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data:
      return _Cursor(path, data, at=8).header()


class _Cursor:
  """Reads a file's header from front to back; CheckpointError where it ends too early or claims what cannot be."""

  def __init__(self, path: Path, data: mmap.mmap, at: int):
    self._path, self._data, self._at, self._end = path, data, at, len(data)

  def header(self) -> Header:
    """Everything after the version."""
    tensors, keys = (self._count(name, most) for name, most in (("tensors", _MOST_TENSORS), ("keys", _MOST_KEYS)))
    metadata: dict[str, Any] = {}
    for _ in range(keys):
      key = self._text()
      if key in metadata:
        raise self._corrupt(f"key {key!r} is there twice")
      metadata[key] = self._value(key)
    listed = [self._tensor() for _ in range(tensors)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
      raise self._corrupt(f"general.alignment is {alignment!r}, expected a power of two")
    return Header(metadata=metadata, tensors=self._placed(listed, -(-self._at // alignment) * alignment, alignment))

  def _placed(self, listed: list[tuple[str, Tensor]], start: int, alignment: int) -> dict[str, Tensor]:
    """The tensors where they lie in the file, once nothing lies outside of it or in another's place."""
    placed: dict[str, Tensor] = {}
    end, before = start, "the header"
    for name, tensor in sorted(listed, key=lambda item: item[1].offset):
      offset = start + tensor.offset
      if name in placed:
        raise self._corrupt(f"tensor {name!r} is there twice")
      if tensor.offset % alignment or offset < end:
        raise self._corrupt(f"tensor {name!r} begins at byte {tensor.offset}, in {before} or out of line")
      end, before = offset + tensor.nbytes, f"tensor {name!r}"
      if end > self._end:
        raise self._corrupt(f"{before} ends at byte {end:,}")
      placed[name] = dataclasses.replace(tensor, offset=offset)
    return {name: placed[name] for name, _ in listed}

  def _tensor(self) -> tuple[str, Tensor]:
    name, axes = self._text(), self._number(_CODE)
    if not 1 <= axes <= _MOST_AXES:
      raise self._corrupt(f"tensor {name!r} has {axes} axes")
    shape = tuple(self._number(_COUNT) for _ in range(axes))[::-1]
    code, offset = self._number(_CODE), self._number(_COUNT)
    if code not in TYPES:
      known = ", ".join(kind.name for kind in TYPES.values())
      raise CheckpointError(f"{self._path}: tensor {name} has type {code}: not supported; known types: {known}")
    kind = TYPES[code]
    if not all(shape) or shape[-1] % kind.numbers:
      raise self._corrupt(f"tensor {name!r} of {kind.name} has shape {list(shape)}")
    nbytes = math.prod(shape) // kind.numbers * kind.nbytes
    return name, Tensor(shape=shape, code=kind.name, offset=offset, nbytes=nbytes)

  def _value(self, key: str) -> Any:
    match self._number(_CODE):
      case code if code in _NUMBERS:
        number = self._number(_NUMBERS[code])
        return float(str(np.float32(number))) if code == _FLOAT32 else number
      case code if code == _TEXT:
        return self._text()
      case code if code == _LIST:
        return self._list(key)
      case code:
        raise self._corrupt(f"key {key!r} has a value of type {code}")

  def _list(self, key: str) -> list[str] | np.ndarray:
    code = self._number(_CODE)
    count = self._count(f"entries of {key!r}", _MOST_ENTRIES)
    if code == _TEXT:
      return self._texts(count)
    if code not in _NUMBERS:
      raise self._corrupt(f"key {key!r} is a list of type {code}")
    if code == _FLAG:
      return np.frombuffer(self._take(count), np.uint8) != 0
    kind = np.dtype(_NUMBERS[code]).newbyteorder("<")
    return np.frombuffer(self._take(count * kind.itemsize), kind)

  def _text(self) -> str:
    return self._texts(1)[0]

  def _texts(self, count: int) -> list[str]:
    """That many texts; one loop, since vocabularies have hundreds of thousands."""
    data, at, length_at = self._data, self._at, _STRUCTS[_COUNT].unpack_from
    texts: list[str] = []
    try:
      for _ in range(count):
        start = at + 8
        at = start + length_at(data, at)[0]
        if at > self._end:
          raise self._cut_off()
        texts.append(str(data[start:at], "utf-8"))
    except struct.error as error:
      raise self._cut_off() from error
    except UnicodeDecodeError as error:
      raise self._corrupt(f"the text that ends at byte {at:,} is no UTF-8") from error
    self._at = at
    return texts

  def _count(self, what: str, most: int) -> int:
    count = self._number(_COUNT)
    # Each takes a byte at least.
    if count > min(most, self._end - self._at):
      raise self._corrupt(f"it claims {count:,} {what}")
    return count

  def _number(self, code: str) -> Any:
    kind = _STRUCTS[code]
    start, self._at = self._at, self._at + kind.size
    try:
      return kind.unpack_from(self._data, start)[0]
    except struct.error as error:
      raise self._cut_off() from error

  def _take(self, count: int) -> bytes:
    start, self._at = self._at, self._at + count
    if self._at > self._end:
      raise self._cut_off()
    return self._data[start : self._at]

  def _cut_off(self) -> CheckpointError:
    return self._corrupt("its header is cut off")

  def _corrupt(self, what: str) -> CheckpointError:
    return corrupt(self._path, what)
