"""Every Python snippet of the README and of the documentation runs; the snippets of a page share their names.

A block that begins with `python notest` is shown and not run.
"""

import functools
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import lynx_jax

ROOT = Path(__file__).parents[2]
SNIPPETS = Sybil(parsers=[PythonCodeBlockParser()], encoding="utf-8")
PAGES = [
  page
  for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
  if "```python\n" in page.read_text(encoding="utf-8")
]


@pytest.fixture(scope="module")
def load_once():
  """`lynx_jax.load`, which keeps the embedded model between pages."""
  kept = functools.cache(lynx_jax.load)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(lynx_jax, "load", kept)
    yield


@pytest.mark.usefixtures("load_once")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_snippets_of_a_page_run_in_order(page, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  examples = list(SNIPPETS.parse(page).examples())
  assert len(examples) == page.read_text(encoding="utf-8").count("```python\n")
  for example in examples:
    example.evaluate()
