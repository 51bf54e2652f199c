"""A checkpoint's tensors under the model's names, whatever the files hold in their place."""

import numpy as np

from checkpoints_convert.dtypes import FP8
from checkpoints_convert.formats.packed import Format, Packed
from checkpoints_convert.packed_rules import Piece
from checkpoints_convert.reader import Reader
from checkpoints_convert.rules import Shape


class Tensors:
  """A checkpoint's tensors under the model's names.

  Attributes:
    shapes: shape of every tensor.
    dtypes: its type code. A quantised tensor counts as bfloat16, which can hold every 8-bit float.
    packed: those that the files hold quantised.
  """

  def __init__(self, reader: Reader, form: Format | None):
    self._reader = reader
    self.packed: dict[str, Packed] = {} if form is None else dict(form.packed(reader))
    parts = {part for one in self.packed.values() for part in one.parts}
    parts |= {name for name in reader.shapes if form is not None and form.is_unread(name)}
    self.shapes: dict[str, Shape] = {name: shape for name, shape in reader.shapes.items() if name not in parts}
    self.dtypes: dict[str, str] = {name: _plain(reader.dtypes[name]) for name in self.shapes}
    for name, one in self.packed.items():
      self.shapes[name], self.dtypes[name] = one.shape, "BF16"

  def read(self, name: str, dtype: np.dtype) -> np.ndarray:
    """One tensor: as its file has it, or, where it is quantised, in `dtype`; not to be written to."""
    one = self.packed.get(name)
    return self._reader.read(name) if one is None else one.numbers(dtype)

  def read_packed(self, name: str) -> Piece:
    """A tensor of `packed` as the files hold it; its arrays are not to be written to."""
    one = self.packed[name]
    assert one.read is not None, name
    return Piece(one.read(), one.swapped)


def _plain(code: str) -> str:
  return "BF16" if code == FP8 else code
