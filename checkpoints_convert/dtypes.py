"""The number types that files hold and that weights are loaded as, by the codes that safetensors gives them."""

import contextlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from checkpoints_convert.errors import CheckpointError

FLOATS: Mapping[str, np.dtype] = {
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F16": np.dtype(np.float16),
  "F32": np.dtype(np.float32),
}
"""What weights may be loaded as."""
FP8 = "F8_E4M3"
E8M0 = "F8_E8M0"
STORED: Mapping[str, np.dtype] = {
  **FLOATS,
  FP8: np.dtype(ml_dtypes.float8_e4m3fn),
  E8M0: np.dtype(ml_dtypes.float8_e8m0fnu),
  "U8": np.dtype(np.uint8),
  "I8": np.dtype(np.int8),
  "I32": np.dtype(np.int32),
  "I64": np.dtype(np.int64),
}
"""What files may hold: the floats, and the numbers and scales of quantised weights."""
CODES: Mapping[np.dtype, str] = {dtype: code for code, dtype in STORED.items()}
"""From the dtypes of `STORED` to their codes."""


def as_dtype(dtype: Any) -> np.dtype:
  """One of `FLOATS`, from its name, NumPy type or JAX type; ValueError for any other."""
  with contextlib.suppress(TypeError):
    found = np.dtype(dtype)
    if found in FLOATS.values():
      return found
  supported = ", ".join(str(choice) for choice in FLOATS.values())
  raise ValueError(f"dtype is {dtype!r}: not supported; supported: {supported}")


def common_dtype(codes: Mapping[str, str], where: object) -> np.dtype:
  """The one float dtype of all tensors, given their codes by name.

  Raises CheckpointError where one is no float, or where several dtypes are mixed.
  """
  check_float(codes, where)
  example = {code: name for name, code in codes.items()}
  if len(example) > 1:
    mixed = ", ".join(f"{FLOATS[code].name} ({name})" for code, name in sorted(example.items()))
    raise CheckpointError(f"{where} mixes {mixed}: say which dtype to load it in, such as dtype='bfloat16'")
  return FLOATS[next(iter(example))]


def check_float(codes: Mapping[str, str], where: object) -> None:
  """Raises CheckpointError, naming the tensor, where one is not bfloat16, float16 or float32."""
  for name, code in codes.items():
    if code not in FLOATS:
      raise CheckpointError(
        f"{where}: tensor {name} has type {code}: not supported; supported: bfloat16, float16, float32, and "
        "float8_e4m3fn with or without the scales that quantization_config describes"
      )
