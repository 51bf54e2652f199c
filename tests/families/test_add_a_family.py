"""Adding a family takes one new file: the one that the guide shows, judged by transformers' Mixtral under new names."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lynx_jax
from lynx_jax.models import families
from lynx_jax.models.families import FAMILIES, spec_from_config
from lynx_jax.testing.random_checkpoint import random_checkpoint
from tests.families.cases import MIXTRAL, checkpoint, random_tokens, reference_logits

ROOT = Path(__file__).parents[2]
CONFIG = {
  "model_type": "toy_moe", "vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "head_dim": 8, "expert_count": 4, "experts_a_token": 2, "expert_width": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def toy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The first Python block of the guide, as a file of its own."""
  page = (ROOT / "docs/guides/add_a_family.md").read_text(encoding="utf-8")
  block = re.search(r"```python\n(.*?)```", page, re.S)
  assert block is not None
  path = tmp_path_factory.mktemp("toy") / "toy_moe.py"
  path.write_text(block[1], encoding="utf-8")
  return path


@pytest.fixture
def toy(toy_file: Path):
  """The toy family, registered from outside the package for one test."""
  before = dict(families._FAMILIES)
  specification = importlib.util.spec_from_file_location("toy_moe", toy_file)
  assert specification is not None
  assert specification.loader is not None
  module = importlib.util.module_from_spec(specification)
  specification.loader.exec_module(module)
  yield lynx_jax.register_family(module.FAMILY)
  families._FAMILIES.clear()
  families._FAMILIES.update(before)


def test_a_registered_family_loads_generates_and_converts_there_and_back(toy, tmp_path: Path):
  random_checkpoint(tmp_path / "toy", CONFIG, dtype="bfloat16")
  lynx_jax.convert(tmp_path / "toy", tmp_path / "orbax")
  lynx_jax.convert(tmp_path / "orbax", tmp_path / "back", to="hf")
  first, last = (load_file(tmp_path / name / "model.safetensors") for name in ("toy", "back"))
  assert "model.layers.1.moe.expert_3.gate" in first
  assert first.keys() == last.keys()
  assert all(first[name].tobytes() == last[name].tobytes() for name in first)
  params = lynx_jax.load(tmp_path / "orbax")
  assert params.spec.family == toy.name == "toy_moe"
  (done,) = lynx_jax.generate(params, [[1, 2, 3]], max_new_tokens=4)
  assert len(done.token_ids) == 4


def test_its_logits_are_those_of_mixtral_under_other_names(toy, tmp_path: Path):
  config = json.loads((checkpoint(MIXTRAL[0]) / "config.json").read_text())
  renamed = {
    "model_type": "toy_moe", "expert_count": config["num_local_experts"],
    "experts_a_token": config["num_experts_per_tok"], "expert_width": config["intermediate_size"],
  }  # fmt: skip
  (tmp_path / "config.json").write_text(json.dumps(config | renamed))
  part = {"w1": "gate", "w3": "up", "w2": "down"}
  tensors = {
    re.sub(
      r"block_sparse_moe\.experts\.(\d+)\.(w\d)\.weight",
      lambda found: f"moe.expert_{found[1]}.{part[found[2]]}",
      name.replace("block_sparse_moe.gate", "moe.router"),
    ): array
    for name, array in load_file(checkpoint(MIXTRAL[0]) / "model.safetensors").items()
  }
  save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
  tokens = random_tokens(MIXTRAL[0], rows=2, length=9)
  ours = np.asarray(jax.jit(lynx_jax.forward)(lynx_jax.load(tmp_path), tokens))
  theirs = reference_logits(MIXTRAL[0], tokens)
  assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_a_model_type_has_one_family(toy):
  with pytest.raises(ValueError, match="family 'other' reads model_type 'mixtral', which family 'mixtral' reads"):
    lynx_jax.register_family(lynx_jax.Family(name="other", spec=toy.spec, rules=toy.rules, aliases=("mixtral",)))
  again = lynx_jax.Family(name="toy_moe", spec=toy.spec, rules=toy.rules, aliases=("toy",), text_of=("seeing_toy",))
  lynx_jax.register_family(again)
  expected = spec_from_config(CONFIG)
  assert spec_from_config(CONFIG | {"model_type": "toy"}) == expected
  text = {name: value for name, value in CONFIG.items() if name != "model_type"}
  assert spec_from_config({"model_type": "seeing_toy", "text_config": text}) == expected


def test_a_new_file_in_the_folder_is_found_without_any_other_change(toy_file: Path, tmp_path: Path):
  package = shutil.copytree(ROOT / "lynx_jax", tmp_path / "lynx_jax", ignore=shutil.ignore_patterns("embedded"))
  shutil.copy(toy_file, package / "models" / "families")
  program = f"from lynx_jax.models.families import spec_from_config; print(spec_from_config({CONFIG!r}).family)"
  done = subprocess.run(
    [sys.executable, "-c", program],
    env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    cwd=tmp_path, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.stdout == "toy_moe\n", done.stderr
  assert "toy_moe" not in FAMILIES
