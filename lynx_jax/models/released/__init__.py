"""Configurations of released models, a config.json each beside this file, and what was published about them.

The files hold what sizes and speed depend on, with the values of the released models. They can be given wherever a
config.json can.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

RELEASED: Mapping[str, dict[str, Any]] = MappingProxyType(
  {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(Path(__file__).parent.glob("*.json"))}
)
"""Parsed config.json files by the names that people use."""

PUBLISHED_KNOBS: Mapping[str, tuple[str, str]] = MappingProxyType(
  {
    "deepseek_v2": ("lynx:alpha=1.125,beta=2", "DeepSeek-Coder-V2"),
    "gpt_oss": ("lynx:alpha=3,beta=2", "gpt-oss-120b"),
    "llama4_text": ("lynx:alpha=1,beta=none", "Llama-4"),
    "mixtral": ("lynx:alpha=0.7,beta=1", "Mixtral-8x7B"),
    "qwen2_moe": ("lynx:alpha=3,beta=4", "Qwen2-57B-A14B"),
    "qwen3_moe": ("lynx:alpha=3,beta=2", "Qwen3-30B-A3B"),
  }
)
"""By family, the Lynx policy that its authors used (arXiv 2411.08982), and on which model."""


def released_config(name: str) -> dict[str, Any] | None:
  """The config.json of a released model, by its name in any case, with or without its organisation; None if unknown."""
  plain = name.rsplit("/", 1)[-1].lower()
  return next((config for known, config in RELEASED.items() if known.lower() == plain), None)
