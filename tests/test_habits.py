"""The checks before a commit are those of `make check`, and need no network."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_hooks_are_the_parts_of_make_check():
  makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
  found = re.search(r"^check:(.*)$", makefile, re.M)
  assert found is not None
  (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
  assert local["repo"] == "local"
  assert [hook["entry"] for hook in local["hooks"]] == [f"make {part}" for part in found.group(1).split()]
  assert all(hook["language"] == "system" for hook in local["hooks"])
