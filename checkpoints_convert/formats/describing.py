"""Which format the files of a checkpoint are in, from the settings beside them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.files import read_json
from checkpoints_convert.formats.compressed_tensors import CompressedTensors, Group
from checkpoints_convert.formats.fp8 import Float8
from checkpoints_convert.formats.modelopt import ModelOpt
from checkpoints_convert.formats.mxfp4 import MXFP4
from checkpoints_convert.formats.packed import Format
from checkpoints_convert.formats.settings import Settings, unsupported
from checkpoints_convert.formats.word_settings import auto_round, awq, gptq

_BLOCK = (128, 128)


def format_of(config: Mapping[str, Any], where: object) -> Format | None:
  """The format of the files in directory `where`, whose parsed config.json is given; None where they are plain.

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
  """What a directory says of its quantised weights, None where it says nothing.

  It is `quantization_config` of config.json, or of its `text_config`, or what ModelOpt writes to hf_quant_config.json.
  Raises CheckpointError where it is no object, and where MLX wrote it, whose format is not supported.
  """
  inner = config.get("text_config")
  nested = inner.get("quantization_config") if isinstance(inner, Mapping) else None
  settings = config.get("quantization_config", config.get("compression_config", nested))
  if settings is not None and not isinstance(settings, Mapping):
    raise CheckpointError(
      f"{where}: config.json sets quantization_config to {settings!r}: expected an object, such as "
      '{"quant_method": "fp8"}, or nothing where the weights are not quantised'
    )
  if "quantization" in config and "quant_method" not in (settings or {}):
    raise CheckpointError(
      f"{where}: config.json sets quantization to {config['quantization']!r}, which is MLX's format: not supported; "
      "download the model that it was made of, or one in another format"
    )
  return _of_modelopt(where) if settings is None else settings


def _of_modelopt(where: object) -> Settings | None:
  """What hf_quant_config.json says, which ModelOpt wrote beside config.json before it wrote into it."""
  path = Path(str(where)) / "hf_quant_config.json"
  if not path.is_file():
    return None
  found = read_json(path).get("quantization")
  return {"quant_method": "modelopt", **(found if isinstance(found, Mapping) else {})}


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


_PACKINGS = (
  "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized",
  "mxfp4-pack-quantized", "mxfp8-quantized", "mixed-precision",
)  # fmt: skip


def _compressed_tensors(settings: Settings, where: object) -> Format:
  packing = settings.get("format")
  if packing not in _PACKINGS:
    raise unsupported(where, "format", packing, ", ".join(_PACKINGS))
  sparsity = settings.get("sparsity_config") or {}
  if sparsity.get("format", "dense") != "dense":
    raise unsupported(where, "sparsity_config.format", sparsity["format"], "dense")
  if (settings.get("transform_config") or {}).get("config_groups"):
    raise unsupported(where, "transform_config", "rotations of activations", "none")
  groups = settings.get("config_groups")
  schemes = list(groups.values()) if isinstance(groups, Mapping) else []
  if not all(isinstance(scheme, Mapping) for scheme in schemes):
    raise unsupported(where, "config_groups", groups, "objects with weights and targets")
  return CompressedTensors(tuple(_group(scheme, packing) for scheme in schemes if scheme.get("weights")))


def _group(scheme: Settings, otherwise: str) -> Group:
  weights, targets, packing = scheme["weights"], scheme.get("targets") or (), scheme.get("format") or otherwise
  block = weights.get("block_structure")
  sides = None if not isinstance(block, list | tuple) else (int(block[0]), int(block[1]))
  return Group(
    bits=weights.get("num_bits", 8),
    size=weights.get("group_size"),
    block=sides,
    kind=weights.get("type", "int"),
    strategy=weights.get("strategy"),
    symmetric=weights.get("symmetric", True) is not False,
    targets=tuple(target for target in targets if isinstance(target, str)),
    packing=packing,
  )


_ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4", "W4A16_NVFP4", "MIXED_PRECISION")


def _modelopt(settings: Settings, where: object) -> Format:
  algorithm = settings.get("quant_algo")
  if algorithm not in _ALGORITHMS:
    raise unsupported(where, "quant_algo", algorithm, ", ".join(_ALGORITHMS))
  return ModelOpt(algorithm)


_FORMATS: Mapping[Any, Callable[[Settings, object], Format]] = MappingProxyType(
  {
    "auto-round": auto_round,
    "awq": awq,
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
    "gptq": gptq,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "mxfp4": _mxfp4,
  }
)
