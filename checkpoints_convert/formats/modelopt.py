"""The formats of NVIDIA's ModelOpt: NVFP4, and 8-bit floats with one scale.

A linear layer's `weight` X [O, I] is held as pairs of 4-bit floats with `X_scale` for every 16 inputs and `X_scale_2`,
by both of which they are multiplied (see `float4`), or as e4m3 with `X_scale`. Types tell which; a layer without scales
is plain. `input_scale` is for activations of few bits, and not read.
"""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from checkpoints_convert.dtypes import FP8
from checkpoints_convert.formats.float4 import NVFP4, float4
from checkpoints_convert.formats.fp8 import Float8
from checkpoints_convert.formats.packed import Format, Packed
from checkpoints_convert.packed_rules import Piece
from checkpoints_convert.reader import Reader
from checkpoints_convert.rules import Shape
from pallas_kernels import Form, abstract_quantized


class ModelOpt(Format):
  """The format `modelopt` of config.json or hf_quant_config.json."""

  name = "modelopt"

  def __init__(self, algorithm: str = "MIXED_PRECISION"):
    self.algorithm = algorithm

  def expected(self, name: str, shape: Shape) -> Piece | None:
    """Every matrix, in the algorithm of all layers; None where layers have their own."""
    if "NVFP4" in self.algorithm:
      scales = np.dtype(ml_dtypes.float8_e4m3fn)
      return Piece(abstract_quantized(shape, NVFP4, np.float32, scales, gains=True))
    if self.algorithm.startswith("FP8"):
      return Piece(abstract_quantized(shape, Form(code="e4m3"), np.float32, np.float32))
    return None

  def packed(self, reader: Reader) -> Mapping[str, Packed]:
    """Every layer's weight that has scales."""
    names, found = reader.dtypes, {}
    for scale in [name for name in names if name.endswith("_scale") and not self.is_unread(name)]:
      name = scale.removesuffix("_scale")
      if name not in names:
        raise self.misfit(reader, f"{scale} has no {name} beside it")
      if names[name] == FP8:
        found[name] = Float8(self.name, (128, 128)).matrix(reader, name, scale)
      else:
        factor = f"{name}_scale_2"
        found[name] = float4(self, reader, name, scale, factor if factor in names else None)
    return found
