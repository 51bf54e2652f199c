"""Models by their hub names: from a cache that is laid out here as the hub's package lays it out, without a network."""

import json
import shutil
import types
from importlib import resources
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

import lynx_jax
from lynx_jax.hub import hub_directory, is_complete, is_hub_name
from lynx_jax.info import describe

NAME = "some-lab/Tiny-MoE"


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  return tmp_path


def snapshot(cache: Path) -> Path:
  """The embedded model as a snapshot of the hub's cache."""
  home = cache / "models--some-lab--Tiny-MoE"
  files = home / "snapshots" / "0123456789abcdef"
  files.parent.mkdir(parents=True)
  (home / "refs").mkdir()
  (home / "refs" / "main").write_text("0123456789abcdef")
  shutil.copytree(str(resources.files("lynx_jax") / "embedded"), files)
  return files


def test_what_is_a_hub_name(tmp_path, monkeypatch):
  assert is_hub_name(NAME)
  assert is_hub_name("Qwen/Qwen3-30B-A3B-Instruct-2507")
  for other in ("model", "/a/b", "./a/b", "a/b/c", "../b", "a/", "", Path("a/b"), "a b/c", "-a/b"):
    assert not is_hub_name(other), other
  monkeypatch.chdir(tmp_path)
  (tmp_path / "some-lab" / "Tiny-MoE").mkdir(parents=True)
  assert not is_hub_name(NAME)


def test_a_cached_model_needs_no_network(cache):
  files = snapshot(cache)
  assert hub_directory(NAME) == files


def test_a_cached_model_is_loaded_described_and_converted_by_its_name(cache, tmp_path):
  snapshot(cache)
  assert lynx_jax.load(NAME).spec == lynx_jax.load().spec
  assert ("family", "qwen3_moe") in describe(NAME)
  lynx_jax.convert(NAME, tmp_path / "out")
  assert (tmp_path / "out" / "conversion.json").is_file()


def test_a_model_that_is_not_cached_says_what_to_do(cache):
  with pytest.raises(FileNotFoundError, match=r"HF_HUB_OFFLINE forbids.*hf download some-lab/Tiny-MoE --local-dir DIR"):
    hub_directory(NAME)


def test_half_a_model_is_not_taken_for_a_whole_one(cache):
  files = snapshot(cache)
  (files / "model.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE"):
    hub_directory(NAME)
  index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
  (files / "model.safetensors.index.json").write_text(json.dumps(index))
  (files / "model-1.safetensors").touch()
  assert not is_complete(files)
  (files / "model-2.safetensors").touch()
  assert is_complete(files)
  (files / "config.json").unlink()
  assert not is_complete(files)


def fails_with(status: int):
  def refuse(*arguments, **fields):
    # Versions of the hub's package have responses of different HTTP clients.
    response: Any = types.SimpleNamespace(status_code=status, headers={}, request=None)
    raise HfHubHTTPError("no", response=response)

  return refuse


@pytest.mark.parametrize(
  ("status", "reason"),
  [(401, "a private one needs HF_TOKEN"), (403, "its owners must grant access"), (404, "the hub has no model of that"),
   (500, "the hub answers 500")],
)  # fmt: skip
def test_refusals_of_the_hub_are_explained(cache, monkeypatch, status, reason):
  monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fails_with(status))
  with pytest.raises(FileNotFoundError, match=reason):
    hub_directory(NAME)


@pytest.mark.parametrize(
  ("listed", "weights"),
  [(["config.json", "model.safetensors", "pytorch_model.bin"], "*.safetensors"),
   (["config.json", "pytorch_model.bin"], "pytorch_model*.bin")],
)  # fmt: skip
def test_one_form_of_the_weights_is_downloaded(cache, monkeypatch, listed, weights):
  asked = {}

  def download(name, **fields):
    if fields.get("local_files_only"):
      raise FileNotFoundError
    asked.update(fields)
    return str(cache)

  monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda api, name: listed)
  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  assert hub_directory(NAME) == cache
  assert {"*.safetensors", "pytorch_model*.bin"} & {*asked["allow_patterns"]} == {weights}
  assert "*.json" in asked["allow_patterns"]
