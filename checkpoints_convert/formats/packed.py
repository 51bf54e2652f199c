"""The interface of formats: which of a file's tensors make up one of the model's, and how they are read.

Families' rules name the tensors of a model, such as `model.layers.0.self_attn.q_proj.weight`. A file that is quantised
holds other tensors in their place, such as values, scales and zeros. A `Format` finds them and says of each tensor of
the model, as a `Packed`, how it is read: with its numbers dequantised, and, where a `Form` can hold what the files
hold, as a `QuantizedWeight` of the same numbers, which rules carry to parameters without dequantising
(`checkpoints_convert.packed_rules`).
"""

import abc
import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np

from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.packed_rules import Piece
from checkpoints_convert.reader import Reader
from checkpoints_convert.rules import Shape
from pallas_kernels import QuantizedWeight
from pallas_kernels.weights.widening import widened

_UNREAD = re.compile(r".*([._](input_scale|input_global_scale|activation_scale)|\.(q|k|v|kv)_scale)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
  """A tensor of the model that files hold quantised.

  Attributes:
    parts: names of all of the files' tensors that make it up; none of them is a tensor of the model's under that
      name, unless it is this one's own.
    shape: of the tensor, as the family's rules know it.
    held: what `read` gives, as shapes and dtypes (`pallas_kernels.abstract_quantized`), in the layout `rows`:
      [..., out, in], where scales are shared along `in`. None where no `Form` holds it.
    swapped: whether the tensor has inputs before outputs: it is then `held` with its last two axes swapped.
    read: reads the parts, as NumPy arrays that may be views of what was read; None where `held` is None.
    dequantise: reads the parts as the tensor's numbers, of `shape`, in a dtype, each one float32 product that is
      rounded once. None makes them of what `read` gives.
    why: what keeps a form from holding it, in words, where `held` is None.
  """

  parts: tuple[str, ...]
  shape: Shape
  held: QuantizedWeight | None = None
  swapped: bool = False
  read: Callable[[], QuantizedWeight] | None = None
  dequantise: Callable[[np.dtype], np.ndarray] | None = None
  why: str = "no form holds it"

  def __post_init__(self) -> None:
    if (self.held is None) != (self.read is None) or (self.read is None and self.dequantise is None):
      raise ValueError(f"Packed({self.parts}): give held and read together, or dequantise")

  def numbers(self, dtype: np.dtype) -> np.ndarray:
    """The tensor in `dtype`; not to be written to."""
    if self.dequantise is not None:
      return self.dequantise(dtype)
    assert self.read is not None
    numbers = widened(self.read(), dtype)
    return numbers.swapaxes(-1, -2) if self.swapped else numbers


class Format(abc.ABC):
  """A format of quantised weights, as the settings of one checkpoint describe it.

  Attributes:
    name: what messages call it, such as the `quant_method` of config.json.
  """

  name: str

  def is_unread(self, name: str) -> bool:
    """Whether a tensor is a scale of activations or of a cache, which keep their dtype here: it is not read."""
    return _UNREAD.fullmatch(name) is not None

  @abc.abstractmethod
  def packed(self, reader: Reader) -> Mapping[str, Packed]:
    """The model's tensors that the files hold quantised, each under its name in the family's rules.

    Reads no more than headers and tensors of a few numbers. Tensors that are no part of any are the model's own, as
    they are. Raises CheckpointError where parts are missing, or types or shapes do not fit (`misfit`).
    """

  def expected(self, name: str, shape: Shape) -> Piece | None:
    """What files of these settings hold the linear layer's tensor `name` as; None where it is plain, or not known."""
    return None

  def objection(self, name: str, piece: Piece) -> str | None:
    """Why files of the format cannot hold the piece, shapes and dtypes, as the tensor `name`; None where they can."""
    return f"{self.name} files are read and not written"

  def written_shapes(self, name: str, piece: Piece) -> dict[str, tuple[Shape, np.dtype]]:
    """Shapes and dtypes of the tensors that `written` makes, given those of a piece without `objection`."""
    raise NotImplementedError(self.name)

  def written(self, name: str, piece: Piece) -> dict[str, np.ndarray]:
    """The files' tensors in place of the model's tensor `name`, by name: the inverse of `Packed.read`, bit for bit."""
    raise NotImplementedError(self.name)

  def misfit(self, reader: Reader, what: str) -> CheckpointError:
    """The error for tensors that are not what the settings say."""
    return CheckpointError(
      f"{reader.directory}: the weights do not fit config.json's quant_method {self.name!r}: {what}: "
      "download the checkpoint again"
    )

  def check_code(self, reader: Reader, name: str, codes: tuple[str, ...]) -> None:
    """Raises CheckpointError unless tensor `name` has one of the type codes."""
    if reader.dtypes[name] not in codes:
      raise self.misfit(reader, f"{name} has type {reader.dtypes[name]}, expected {' or '.join(codes)}")

  def check_shape(self, reader: Reader, name: str, expected: Shape, of: str) -> None:
    """Raises CheckpointError unless tensor `name` has the shape that goes with tensor `of`."""
    found = reader.shapes[name]
    if found != expected:
      raise self.misfit(
        reader, f"{name} has shape {list(found)}, expected {list(expected)} for {of} {list(reader.shapes[of])}"
      )
