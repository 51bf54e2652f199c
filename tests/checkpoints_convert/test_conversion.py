"""Directories there and back, bit for bit, all or nothing."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import lynx_jax
from benchmarks.load_memory import load_memory
from checkpoints_convert import conversion, orbax_files
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.parameters import in_memory
from checkpoints_convert.safetensors_writing import write_safetensors
from lynx_jax.models.checkpoints import convert, open_model
from lynx_jax.models.families import tensor_rules
from lynx_jax.models.parameters import by_path
from lynx_jax.testing import random_checkpoint
from tests.checkpoints_convert.exported import loaded_by_transformers
from tests.checkpoints_convert.tampering import copied, sharded, with_tensors
from tests.families.cases import (
  CASES,
  DEEPSEEK_V2,
  DEEPSEEK_V3,
  GRANITEMOE,
  MIXTRAL,
  OLMOE,
  PHIMOE,
  QWEN2_MOE,
  QWEN3_MOE,
  Case,
  checkpoint,
  random_tokens,
  reference,
  reference_logits,
)

DIVERSE = (DEEPSEEK_V2[1], DEEPSEEK_V3[0], MIXTRAL[2], OLMOE[2], QWEN3_MOE[3])


def parameters(path: Path) -> dict[str, np.ndarray]:
  with open_model(path) as (_, source):
    return {name: np.asarray(array) for name, array in source.parameters(source.dtype)}


def tensors(path: Path) -> dict[str, np.ndarray]:
  return load_file(path / "model.safetensors")


def assert_same_bits(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
  assert first.keys() == second.keys()
  for name in first:
    assert (first[name].dtype, first[name].shape) == (second[name].dtype, second[name].shape), name
    assert first[name].tobytes() == second[name].tobytes(), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", DIVERSE, ids=str)
def test_there_and_back_gives_every_bit(case: Case, dtype: str, tmp_path: Path):
  source = checkpoint(case, dtype)
  convert(source, tmp_path / "orbax")
  convert(tmp_path / "orbax", tmp_path / "hf", to="hf")
  assert_same_bits(parameters(tmp_path / "orbax"), parameters(source))
  assert_same_bits(tensors(tmp_path / "hf"), tensors(source))
  for name in ("config.json", "generation_config.json"):
    assert json.loads((tmp_path / "hf" / name).read_text()) == json.loads((source / name).read_text())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_rules_give_back_the_files_of_every_case(case: Case, tmp_path: Path):
  with open_model(checkpoint(case)) as (spec, source):
    arrays = dict(source.parameters(source.dtype))
    write_safetensors(tmp_path, tensor_rules(spec), in_memory(arrays))
  assert_same_bits(tensors(tmp_path), tensors(checkpoint(case)))


@pytest.mark.parametrize("case", DIVERSE, ids=str)
def test_transformers_loads_what_was_exported(case: Case, tmp_path: Path):
  convert(checkpoint(case), tmp_path / "hf", to="hf")
  model = loaded_by_transformers(tmp_path / "hf")
  tokens = random_tokens(case, rows=2, length=9)
  with torch.no_grad():
    logits = model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
  np.testing.assert_array_equal(logits, reference_logits(case, tokens))


def test_a_decoder_in_memory_is_written_as_a_checkpoint(tmp_path: Path):
  decoder = lynx_jax.load(checkpoint(QWEN3_MOE[2], "bfloat16")).decoder
  write_safetensors(tmp_path, tensor_rules(decoder.spec), in_memory(by_path(decoder)))
  assert_same_bits(tensors(tmp_path), tensors(checkpoint(QWEN3_MOE[2], "bfloat16")))


def test_large_weights_go_to_shards_with_an_index(tmp_path: Path):
  case = OLMOE[0]
  with open_model(checkpoint(case)) as (spec, source):
    arrays = dict(source.parameters(source.dtype))
    write_safetensors(tmp_path, tensor_rules(spec), in_memory(arrays), shard_bytes=150_000)
  shutil.copy(checkpoint(case) / "config.json", tmp_path)
  assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
  assert_same_bits(parameters(tmp_path), parameters(checkpoint(case)))
  model = loaded_by_transformers(tmp_path)
  assert model.num_parameters() == reference(case).num_parameters()


@pytest.mark.parametrize("case", [MIXTRAL[0], OLMOE[1], QWEN3_MOE[2], QWEN2_MOE[2], GRANITEMOE[0], PHIMOE[0]], ids=str)
def test_the_fused_spelling_of_transformers_holds_the_same(case: Case, tmp_path: Path):
  reference(case).save_pretrained(tmp_path, save_original_format=False)
  assert any(name.endswith("experts.gate_up_proj") for name in tensors(tmp_path))
  assert_same_bits(parameters(tmp_path), parameters(checkpoint(case)))


def test_shards_hold_the_same(tmp_path: Path):
  assert_same_bits(parameters(sharded(MIXTRAL[0], tmp_path)), parameters(checkpoint(MIXTRAL[0])))


def test_a_dtype_is_applied_to_weights_and_config(tmp_path: Path):
  case = OLMOE[0]
  convert(checkpoint(case), tmp_path / "half", dtype="bfloat16")
  expected = {name: array.astype(ml_dtypes.bfloat16) for name, array in parameters(checkpoint(case)).items()}
  assert_same_bits(parameters(tmp_path / "half"), expected)
  assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
  loaded = lynx_jax.load(tmp_path / "half", dtype=np.float32)
  assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}


def test_the_record_lists_sources_and_rules(tmp_path: Path):
  case = MIXTRAL[0]
  (source := copied(case, tmp_path)).joinpath("tokenizer_config.json").write_text("{}")
  convert(source, tmp_path / "out", dtype="bfloat16")
  record = json.loads((tmp_path / "out" / "conversion.json").read_text())
  assert {key: record[key] for key in ("lynx_jax", "family", "to", "dtype")} == {
    "lynx_jax": lynx_jax.__version__, "family": "mixtral", "to": "orbax", "dtype": "bfloat16",
  }  # fmt: skip
  listed = record["source"]["files"]
  expected = {"config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors"}
  assert listed.keys() == expected
  for name, entry in listed.items():
    data = (source / name).read_bytes()
    assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
  assert record["rules"]["head"] == "lm_head.weight"
  assert (tmp_path / "out" / "tokenizer_config.json").read_text() == "{}"


def test_a_converted_directory_records_its_own_files(tmp_path: Path):
  convert(checkpoint(MIXTRAL[0]), tmp_path / "one")
  convert(tmp_path / "one", tmp_path / "two")
  record = json.loads((tmp_path / "two" / "conversion.json").read_text())
  assert any(name.startswith("weights/") for name in record["source"]["files"])
  assert record["rules"] == {}


def entries(path: Path) -> list[str]:
  return sorted(entry.name for entry in path.iterdir())


def test_an_existing_destination_is_kept_unless_forced(tmp_path: Path):
  destination = tmp_path / "out"
  convert(checkpoint(MIXTRAL[0]), destination)
  (destination / "mine").touch()
  with pytest.raises(CheckpointError, match=f"{destination} exists: .*--force"):
    convert(checkpoint(MIXTRAL[1]), destination)
  assert (destination / "mine").exists()
  convert(checkpoint(MIXTRAL[1]), destination, force=True)
  assert not (destination / "mine").exists()
  assert entries(tmp_path) == ["out"]
  assert_same_bits(parameters(destination), parameters(checkpoint(MIXTRAL[1])))


def test_force_never_replaces_what_is_no_model(tmp_path: Path):
  precious = tmp_path / "home" / "thesis.txt"
  precious.parent.mkdir()
  precious.write_text("years")
  for destination in (precious.parent, precious):
    with pytest.raises(CheckpointError, match="no model directory"):
      convert(checkpoint(MIXTRAL[0]), destination, force=True)
  assert precious.read_text() == "years"


@pytest.mark.parametrize("place", [".", ".."])
def test_a_destination_that_holds_the_source_is_refused(tmp_path: Path, place: str):
  source = copied(MIXTRAL[0], tmp_path)
  with pytest.raises(CheckpointError, match="holds the source"):
    convert(source, source / place, force=True)
  assert (source / "config.json").is_file()


@pytest.mark.parametrize("failing", ["orbax", "record", "rename"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, existing: bool):
  destination = tmp_path / "out"
  if existing:
    convert(checkpoint(MIXTRAL[1]), destination)
  before = parameters(destination) if existing else None

  def fail(*args, **options):
    raise OSError(5, "Input/output error")

  rename = Path.rename
  if failing == "orbax":
    write = orbax_files.write
    monkeypatch.setattr(orbax_files, "write", lambda *args: (write(*args), fail()))
  elif failing == "record":
    monkeypatch.setattr(conversion, "write_record", fail)
  else:
    # Only the last step, from the finished directory to its name, fails.
    monkeypatch.setattr(Path, "rename", lambda self, to: fail() if self.name.endswith(".partial") else rename(self, to))
  with pytest.raises(OSError, match="Input/output error"):
    convert(checkpoint(MIXTRAL[0]), destination, force=True)
  assert entries(tmp_path) == (["out"] if existing else [])
  if before is not None:
    assert_same_bits(parameters(destination), before)


@pytest.mark.parametrize("to", ["orbax", "hf"])
def test_a_disk_without_room_is_named_before_anything_is_written(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
):
  size = sum(array.nbytes for array in parameters(checkpoint(MIXTRAL[0])).values())
  monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: SimpleNamespace(free=size))
  convert(checkpoint(MIXTRAL[0]), tmp_path / "small", to=to)
  monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: SimpleNamespace(free=size - 1))
  message = rf"the disk of .*out is full: the weights take {size / 1e9:.3f} GB, {size / 1e9:.3f} GB are free; make room"
  with pytest.raises(CheckpointError, match=message):
    convert(checkpoint(MIXTRAL[0]), tmp_path / "out", to=to)
  assert entries(tmp_path) == ["small"]


@pytest.mark.parametrize(
  ("to", "writer", "error"),
  [
    ("hf", "checkpoints_convert.safetensors_writing.carry", OSError(28, "No space left on device")),
    ("hf", "checkpoints_convert.safetensors_writing.carry", OSError(122, "Disk quota exceeded")),
    (
      "orbax",
      "checkpoints_convert.orbax_writing.save",
      ValueError("RESOURCE_EXHAUSTED: Error writing ...: No space left on device [OS error 28: ENOSPC]"),
    ),
  ],
)
def test_a_disk_that_runs_full_is_named_and_nothing_stays(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, writer: str, error: Exception
):
  import checkpoints_convert.orbax_writing  # noqa: F401 (to be found by its name)

  def fail(*arguments):
    raise error

  monkeypatch.setattr(writer, fail)
  with pytest.raises(CheckpointError, match=r"the disk of .*out is full: the weights take .* GB are free"):
    convert(checkpoint(MIXTRAL[0]), tmp_path / "out", to=to)
  assert entries(tmp_path) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_files_are_written_as_the_safetensors_library_writes_them(tmp_path: Path, dtype: str):
  convert(checkpoint(DEEPSEEK_V3[0], dtype), tmp_path / "out", to="hf")
  save_file(tensors(tmp_path / "out"), tmp_path / "theirs", metadata={"format": "pt"})
  assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()
  assert (tmp_path / "out" / "model.safetensors").stat().st_mode == (tmp_path / "out" / "config.json").stat().st_mode


ORBAX = [pytest.param(loader, marks=pytest.mark.slow) for loader in ("to_orbax", "to_orbax_and_back")]


@pytest.mark.parametrize("loader", ["to_safetensors", *ORBAX])
def test_a_conversion_never_holds_the_model(tmp_path: Path, loader: str, monkeypatch: pytest.MonkeyPatch):
  arguments = ["--layers", "8", "--experts", "16", "--vocab", "500", "--width", "768", "--shard-mb", "200"]
  assert random_checkpoint.main([str(tmp_path / "model"), *arguments]) == 0
  # What Orbax's threads give back, glibc keeps for them (docs/LOG.md); this is about what our code holds.
  monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
  found = load_memory(tmp_path / "model", loader=f"tests.checkpoints_convert.conversions:{loader}")
  assert found.weights > 600e6
  assert found.ratio < 0.7


def test_progress_reaches_the_end_of_every_stage(tmp_path: Path):
  seen: dict[str, list[tuple[int, int]]] = {}
  convert(
    checkpoint(MIXTRAL[0]),
    tmp_path / "out",
    report=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)),
  )
  assert list(seen) == ["converting", "checksums"]
  for steps in seen.values():
    done = [step for step, _ in steps]
    assert done == sorted(done)
    assert steps[-1][0] == steps[-1][1] > 0


@pytest.mark.parametrize(
  ("options", "message"),
  [({"to": "gguf"}, "to is 'gguf'.*orbax, hf"), ({"dtype": "int8"}, "dtype is 'int8'.*bfloat16")],
)
def test_an_unknown_option_is_named(tmp_path: Path, options: dict, message: str):
  with pytest.raises(ValueError, match=message):
    convert(checkpoint(MIXTRAL[0]), tmp_path / "out", **options)
  assert not (tmp_path / "out").exists()


TIED = MIXTRAL[2]


def with_head(directory: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
  def add(tensors):
    return tensors | {"lm_head.weight": change(tensors["model.embed_tokens.weight"])}

  return with_tensors(TIED, directory, add)


def test_a_tied_head_may_be_there_twice(tmp_path: Path):
  path = with_head(tmp_path, lambda embedding: embedding)
  assert_same_bits(parameters(path), parameters(checkpoint(TIED)))


def test_a_tied_head_that_differs_is_an_error(tmp_path: Path):
  path = with_head(tmp_path, lambda embedding: embedding + 1)
  with pytest.raises(CheckpointError, match=r"ties lm_head\.weight to model\.embed_tokens\.weight.*differ"):
    parameters(path)


def test_an_untied_model_needs_its_head(tmp_path: Path):
  def drop(tensors):
    del tensors["lm_head.weight"]
    return tensors

  with pytest.raises(CheckpointError, match=r"1 tensor missing: lm_head\.weight"):
    parameters(with_tensors(MIXTRAL[0], tmp_path, drop))


def test_a_config_that_does_not_fit_converted_weights_is_an_error(tmp_path: Path):
  convert(checkpoint(MIXTRAL[0]), tmp_path / "out")
  config = json.loads((tmp_path / "out" / "config.json").read_text())
  (tmp_path / "out" / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
  with pytest.raises(CheckpointError, match=r"layers\.0\.ffn\.down \(expected \(4, 64, 40\), found \(4, 64, 48\)\)"):
    parameters(tmp_path / "out")


def test_damaged_metadata_of_converted_weights_is_an_error(tmp_path: Path):
  convert(checkpoint(MIXTRAL[0]), tmp_path / "out")
  (tmp_path / "out" / "weights" / "_METADATA").write_bytes(b"")
  with pytest.raises(CheckpointError, match=r"weights cannot be read .*convert the checkpoint again"):
    parameters(tmp_path / "out")
