"""Which format the files of a checkpoint are in, from the settings beside them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.formats.fp8 import Float8
from checkpoints_convert.formats.mxfp4 import MXFP4
from checkpoints_convert.formats.packed import Format

Settings = Mapping[str, Any]
_BLOCK = (128, 128)


def format_of(config: Mapping[str, Any], where: object) -> Format | None:
  """The format that config.json describes, None where it has no `quantization_config`.

  Raises CheckpointError, naming the format or its setting, where it is not supported.
  """
  settings = quantization_settings(config, where)
  if settings is None:
    return None
  method = settings.get("quant_method")
  if method not in _FORMATS:
    raise unsupported(where, "quant_method", method, ", ".join(_FORMATS))
  return _FORMATS[method](settings, where)


def quantization_settings(config: Mapping[str, Any], where: object) -> Settings | None:
  """`quantization_config` of config.json, None where there is none; CheckpointError where it is no object."""
  settings = config.get("quantization_config")
  if settings is not None and not isinstance(settings, Mapping):
    raise CheckpointError(
      f"{where}: config.json sets quantization_config to {settings!r}: expected an object, such as "
      '{"quant_method": "fp8"}, or nothing where the weights are not quantised'
    )
  return settings


def unsupported(where: object, key: str, value: Any, supported: str) -> CheckpointError:
  """The error for a setting of `quantization_config` whose value is not supported."""
  return CheckpointError(
    f"{where}: config.json sets quantization_config.{key} to {value!r}: not supported; supported: {supported}"
  )


def _mxfp4(settings: Settings, where: object) -> Format:
  return MXFP4()


def _fp8(settings: Settings, where: object) -> Format:
  """How activations are scaled makes no difference to weights."""
  names = ("e4m3", "float8_e4m3fn")
  if settings.get("fmt", names[0]) not in names:
    raise unsupported(where, "fmt", settings["fmt"], " or ".join(names))
  block = settings.get("weight_block_size", _BLOCK)
  if block is None:
    return Float8("fp8", None)
  if not isinstance(block, list | tuple) or len(block) != 2 or not all(isinstance(n, int) and n > 0 for n in block):
    raise unsupported(where, "weight_block_size", block, "two whole numbers, such as [128, 128], or null")
  return Float8("fp8", (block[0], block[1]))


_FORMATS: Mapping[Any, Callable[[Settings, object], Format]] = MappingProxyType({"fp8": _fp8, "mxfp4": _mxfp4})
