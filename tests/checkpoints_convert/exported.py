"""The judge of exported directories: transformers loads them, and finds every tensor that it expects and no other."""

from pathlib import Path
from typing import Any

import transformers


def loaded_by_transformers(path: Path) -> Any:
  """The model in `path`, once transformers has nothing to report of its loading."""
  loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
  model, report = loaded
  assert not any(report.values()), report
  return model
