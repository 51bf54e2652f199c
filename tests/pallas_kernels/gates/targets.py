"""What tests of gates compile: for one GPU and a few models in every run, for all of them where slow tests run too."""

from collections.abc import Iterable

import pytest

from pallas_kernels import gates

TARGETS = [pytest.param(target, marks=() if target == "h100" else pytest.mark.slow) for target in gates.TARGETS]
_OFTEN = {"Qwen3-30B-A3B", "gpt-oss-20b"}


def models(names: Iterable[str]) -> list:
  """The models as parameters; all but those of two families are slow, or all but the first if neither is there."""
  named = list(names)
  often = _OFTEN.intersection(named) or named[:1]
  return [pytest.param(name, marks=() if name in often else pytest.mark.slow) for name in named]
