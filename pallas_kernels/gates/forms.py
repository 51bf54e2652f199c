"""Forms of weights that kernels for GPUs are compiled for: those of released checkpoints, and those of `quantize`."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from pallas_kernels.weights.form import Form
from pallas_kernels.weights.quantized import QuantizedWeight
from pallas_kernels.weights.quantizing import abstract_quantized


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Held:
  """How a checkpoint's weights are held on a GPU: their form, the dtype of scales, and whether groups have zeros."""

  form: Form
  scales: DTypeLike
  zeros: bool = False

  def abstract(self, *shape: int) -> QuantizedWeight:
    """A bfloat16 model's weight of that shape, as shapes and dtypes."""
    weight = abstract_quantized(shape, self.form, jnp.bfloat16, self.scales)
    zeros = jax.ShapeDtypeStruct(weight.scales.shape, np.uint8) if self.zeros else None
    return dataclasses.replace(weight, zeros=zeros)


def _tiles(code: str, group: int | None) -> Form:
  return Form(code=code, group=group, layout="tiles")


HELD: Mapping[str, Held] = MappingProxyType(
  {
    "int8": Held(form=_tiles("int8", None), scales=np.float32),
    "int8, groups of 128": Held(form=_tiles("int8", 128), scales=jnp.bfloat16),
    "int4, groups of 32": Held(form=_tiles("int4", 32), scales=jnp.bfloat16),
    "int4, groups of 128, zeros": Held(form=_tiles("int4", 128), scales=np.float16, zeros=True),
    "MXFP4": Held(form=_tiles("e2m1", 32), scales=jnp.float8_e8m0fnu),
    "fp8": Held(form=_tiles("e4m3", None), scales=np.float32),
    "fp8, blocks of 128": Held(form=_tiles("e4m3", 128), scales=np.float32),
  }
)
"""By the names of the results."""
