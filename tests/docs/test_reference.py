"""The API reference has every public name, and the site has every page of the folder."""

import re
from pathlib import Path

import pytest

import lynx_jax
import pallas_kernels

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("package", [lynx_jax, pallas_kernels], ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_reference(package):
  text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
  documented = set(re.findall(rf"auto(?:function|class|data):: {package.__name__}\.(\w+)$", text, re.MULTILINE))
  assert documented == set(package.__all__)


def test_links_between_pages_lead_to_files():
  for page in DOCS.rglob("*.md"):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
      if "://" not in target:
        assert (page.parent / target).exists(), f"{page.relative_to(DOCS)} links to {target}"
