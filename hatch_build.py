"""Builds the native library into the wheel, or into the tree for an editable install.

Without a C++ compiler, or where it fails, the installation goes on: plain JAX runs instead, and a file beside the
library's place says why (`lynx-jax info` and `pallas_kernels.explain()` print it).
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

_CPU = Path("pallas_kernels") / "cpu"


def _builder(root: Path) -> Any:
  """`pallas_kernels.cpu.build`, without importing JAX, which this environment does not have."""
  spec = importlib.util.spec_from_file_location("cpu_build", root / _CPU / "build.py")
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


class NativeLibrary(BuildHookInterface):
  """Hatchling's hook of that kind."""

  def initialize(self, version: str, build_data: dict[str, Any]) -> None:
    """Builds before files are collected; the wheel gets a platform tag only where there is something native in it."""
    root = Path(self.root)
    builder = _builder(root)
    made = builder.build_or_say_why(root / _CPU, cxx=os.environ.get("CXX"))
    build_data["artifacts"].append(f"/{_CPU.as_posix()}/{made.name}")
    if made.name == builder.LIBRARY:
      # No Python in it, so any version will do.
      platform = next(tag.platform for tag in sys_tags() if "linux_" not in tag.platform[1:])
      build_data["pure_python"] = False
      build_data["tag"] = f"py3-none-{platform}"
    else:
      self.app.display_warning(f"lynx-jax: installing without native code: {made.read_text().strip()}")
