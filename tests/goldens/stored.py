"""The recorded files: small sorted JSON, and the arrays that are fed."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data"


@cache
def inputs() -> dict[str, np.ndarray]:
  """Every array of `inputs.npz`, by name."""
  with np.load(DATA / "inputs.npz") as arrays:
    return dict(arrays)


def read(name: str) -> dict[str, Any]:
  """What is recorded under `name`."""
  return json.loads((DATA / f"{name}.json").read_text())


def write(name: str, found: dict[str, Any]) -> None:
  """Records `found` under `name`: one line an entry of the second level, keys sorted."""
  groups = []
  for key in sorted(found):
    value = found[key]
    if isinstance(value, dict):
      lines = ",\n".join(f"  {json.dumps(part)}: {_line(value[part])}" for part in sorted(value))
      groups.append(f"{json.dumps(key)}: {{\n{lines}\n}}")
    else:
      groups.append(f"{json.dumps(key)}: {_line(value)}")
  (DATA / f"{name}.json").write_text("{\n" + ",\n".join(groups) + "\n}\n")


def _line(value: Any) -> str:
  return json.dumps(value, sort_keys=True, separators=(",", ":"))
