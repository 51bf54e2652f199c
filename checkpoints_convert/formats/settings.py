"""The settings of a quantised checkpoint, as config.json has them, and the error for one that is not supported."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from checkpoints_convert.errors import CheckpointError

Settings: TypeAlias = Mapping[str, Any]
"""`quantization_config` of config.json."""


def unsupported(where: object, key: str, value: Any, supported: str) -> CheckpointError:
  """The error for a setting of `quantization_config` whose value is not supported."""
  return CheckpointError(
    f"{where}: config.json sets quantization_config.{key} to {value!r}: not supported; supported: {supported}"
  )
