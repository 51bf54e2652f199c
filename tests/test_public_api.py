"""What a user meets first: the names, what importing costs, and the README's own snippets."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lynx_jax

ROOT = Path(__file__).parents[1]


def test_every_public_name_is_there_and_documented():
  for name in lynx_jax.__all__:
    assert getattr(lynx_jax, name).__doc__
  assert set(lynx_jax.__all__) == set(lynx_jax._HOME)
  with pytest.raises(AttributeError, match="no attribute 'generat'"):
    lynx_jax.generat  # noqa: B018


def test_the_version_is_that_of_the_project_file():
  # An installation that is older than the file fails here: install again.
  project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
  assert lynx_jax.__version__ == project["version"]


def test_importing_brings_in_nothing_heavy():
  program = (
    "import sys, lynx_jax; [getattr(lynx_jax, name) for name in lynx_jax.__all__]; import lynx_jax.cli\n"
    "print([name for name in ('torch', 'transformers', 'matplotlib', 'fastapi', 'uvicorn', 'pyarrow')"
    " if name in sys.modules])"
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "[]"


def test_the_snippets_of_the_readme_run():
  snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
  assert snippets
  names: dict = {}
  for snippet in snippets:
    exec(compile(snippet, "README.md", "exec"), names)


def test_the_commands_of_the_readme_exist():
  from lynx_jax.cli import _parser

  text = (ROOT / "README.md").read_text(encoding="utf-8")
  verbs = set(re.findall(r"^\s*lynx-jax (\w+)", text, re.M))
  assert {"generate", "chat", "info", "convert", "bench"} <= verbs
  usage = _parser().format_help()
  assert all(verb in usage for verb in verbs)
