"""No file tells weights or parts of layers apart by their class where the object itself answers."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WEIGHTS = r"(HeldWeight|QuantizedWeight|BFloat16Bits)"
PARTS = r"(AttentionSpec|MLASpec|MoESpec|DenseSpec|Attention|MLA|MoE|Dense)"


def files_that_ask(kinds: str, *folders: str) -> set[str]:
  asks = re.compile(rf"isinstance\(.*\b{kinds}\b|\bcase {kinds}\(")
  paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
  return {path.relative_to(ROOT).as_posix() for path in paths if asks.search(path.read_text(encoding="utf-8"))}


def test_only_their_own_folder_asks_what_class_a_weight_is():
  found = files_that_ask(WEIGHTS, "pallas_kernels", "checkpoints_convert", "lynx_jax", "benchmarks")
  assert {str(Path(name).parent) for name in found} == {"pallas_kernels/weights"}


def test_only_the_spec_and_the_families_ask_what_kind_a_part_is():
  found = files_that_ask(PARTS, "pallas_kernels", "checkpoints_convert", "lynx_jax", "benchmarks")
  assert {name for name in found if not name.startswith("lynx_jax/models/families/")} == {"lynx_jax/models/spec.py"}


@pytest.mark.parametrize(
  "line",
  [
    "isinstance(weight, QuantizedWeight)",
    "isinstance(a.get(1), (str, QuantizedWeight))",
    "    case QuantizedWeight(values):",
  ],
)
def test_the_search_finds_what_it_looks_for(tmp_path, monkeypatch, line):
  monkeypatch.setitem(globals(), "ROOT", tmp_path)
  (tmp_path / "code").mkdir()
  (tmp_path / "code" / "one.py").write_text(line)
  assert files_that_ask(WEIGHTS, "code") == {"code/one.py"}
