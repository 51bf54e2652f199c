"""The files of a model directory beside its weights: config.json, tokenizer, and the record of a conversion."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.files import write_json

COMPANIONS = (
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "tokenizer.model",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "README.md",
  "LICENSE",
)
"""Files that travel with the weights, unchanged."""
RECORD = "conversion.json"


def write_config(
  directory: Path, config: Mapping[str, Any], dtype: np.dtype, *, settings: Mapping[str, Any] | None = None
) -> None:
  """Writes config.json with the dtype that the weights now have.

  It says `settings` of quantised weights: None leaves what `config` says, and nothing in it takes that out.
  """
  names = [name for name in ("dtype", "torch_dtype") if name in config] or ["dtype"]
  kept = dict(config) if settings is None else _unquantised(config)
  quantised = {"quantization_config": settings} if settings else {}
  write_json(directory / "config.json", {**kept, **dict.fromkeys(names, dtype.name), **quantised})


def _unquantised(config: Mapping[str, Any]) -> dict[str, Any]:
  kept = {name: value for name, value in config.items() if name not in ("quantization_config", "compression_config")}
  inner = kept.get("text_config")
  return {**kept, "text_config": _unquantised(inner)} if isinstance(inner, Mapping) else kept


def copy_companions(source: Path, directory: Path) -> list[Path]:
  """Copies the files that travel with the weights; returns their originals."""
  present = [source / name for name in COMPANIONS if (source / name).is_file()]
  for path in present:
    shutil.copyfile(path, directory / path.name)
  return present


def write_record(directory: Path, record: Mapping[str, Any]) -> None:
  """Writes conversion.json, which says where the directory comes from."""
  write_json(directory / RECORD, record)


def fingerprint(path: Path) -> dict[str, Any]:
  """Size in bytes and SHA-256 of a file."""
  with path.open("rb") as file:
    return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
