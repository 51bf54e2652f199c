"""PyTorch's own files: the same bits as safetensors, no code that they bring, errors that say what to do."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints_convert import pytorch_files
from checkpoints_convert.checkpoint import open_reader
from checkpoints_convert.dtypes import FLOATS
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.pytorch_files import PyTorchReader
from checkpoints_convert.safetensors_files import SafetensorsReader
from lynx_jax.models.checkpoints import convert, open_model
from tests.checkpoints_convert.exported import loaded_by_transformers
from tests.families.cases import MIXTRAL, OLMOE, QWEN3_MOE, Case, checkpoint, random_tokens, reference_logits

CASE = MIXTRAL[0]


def pytorch(case: Case, directory: Path, dtype: str = "float32", files: tuple[str, ...] = ("pytorch_model.bin",)):
  """The case's checkpoint with its tensors dealt out over `files` and no safetensors."""
  path = directory / "model"
  shutil.copytree(checkpoint(case, dtype), path, ignore=shutil.ignore_patterns("*.safetensors"))
  with SafetensorsReader(checkpoint(case, dtype)) as reader:
    names = list(reader.shapes)
    tensors = {}
    for name in names:
      bits = torch.from_numpy(reader.read(name).view(np.int16 if dtype == "bfloat16" else np.int32).copy())
      tensors[name] = bits.view(getattr(torch, dtype))
  for number, file in enumerate(files):
    torch.save({name: tensors[name] for name in names[number :: len(files)]}, path / file)
  weight_map = {name: files[number % len(files)] for number, name in enumerate(names)}
  if len(files) > 1:
    (path / PyTorchReader.index).write_text(json.dumps({"weight_map": weight_map}))
  return path


def parameters(path: Path) -> dict[str, bytes]:
  with open_model(path) as (_, source):
    return {name: np.asarray(array).tobytes() for name, array in source.parameters(source.dtype)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", [MIXTRAL[2], OLMOE[2], QWEN3_MOE[3]], ids=str)
def test_one_file_holds_what_safetensors_hold(case: Case, dtype: str, tmp_path: Path):
  assert parameters(pytorch(case, tmp_path, dtype)) == parameters(checkpoint(case, dtype))


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("ending", ["bin", "pt", "pth"])
def test_shards_hold_the_same_with_or_without_an_index(tmp_path: Path, ending: str, index: bool):
  path = pytorch(CASE, tmp_path, files=tuple(f"pytorch_model-0000{n}-of-00003.{ending}" for n in (1, 2, 3)))
  torch.save({"a": torch.zeros(3)}, path / "optimizer.pt")
  torch.save(list, path / "training_args.bin")
  if not index:
    (path / PyTorchReader.index).unlink()
  assert parameters(path) == parameters(checkpoint(CASE))


def test_safetensors_come_first(tmp_path: Path):
  path = pytorch(CASE, tmp_path)
  shutil.copy(checkpoint(CASE) / "model.safetensors", path)
  (path / "pytorch_model.bin").write_bytes(b"never read")
  assert parameters(path) == parameters(checkpoint(CASE))


def test_it_is_exported_as_a_directory_that_transformers_loads(tmp_path: Path):
  convert(pytorch(CASE, tmp_path), tmp_path / "hf", to="hf")
  assert not list((tmp_path / "hf").glob("*.bin"))
  model = loaded_by_transformers(tmp_path / "hf")
  tokens = random_tokens(CASE, rows=2, length=9)
  with torch.no_grad():
    logits = model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
  np.testing.assert_array_equal(logits, reference_logits(CASE, tokens))


def state(tmp_path: Path, content: object) -> Path:
  torch.save(content, tmp_path / "pytorch_model.bin")
  return tmp_path


def test_views_parameters_and_every_type_come_bit_for_bit(tmp_path: Path):
  whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
  bits = torch.arange(256, dtype=torch.int32).to(torch.uint8)
  content = {
    "turned": whole.T, "part": whole[1:3, ::2], "parameter": torch.nn.Parameter(whole), "scalar": torch.tensor(2.5),
    "half": whole.half(), "bfloat16": whole.bfloat16(), "fp8": bits.view(torch.float8_e4m3fn), "bytes": bits,
  }  # fmt: skip
  with PyTorchReader(state(tmp_path, content)) as reader:
    found = {name: reader.read(name) for name in reader.shapes}
    assert reader.dtypes["fp8"] == "F8_E4M3"
    assert {reader.dtypes[name] for name in ("turned", "part", "parameter", "scalar")} == {"F32"}
  np.testing.assert_array_equal(found["turned"], whole.numpy().T)
  np.testing.assert_array_equal(found["part"], whole.numpy()[1:3, ::2])
  np.testing.assert_array_equal(found["fp8"].view(np.uint8), np.arange(256))
  np.testing.assert_array_equal(found["half"], whole.numpy().astype(np.float16))
  np.testing.assert_array_equal(found["bfloat16"], whole.numpy().astype(FLOATS["BF16"]))
  assert found["scalar"].shape == ()
  assert found["scalar"] == 2.5


def test_a_file_is_reopened_now_and_then_to_let_its_pages_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(pytorch_files, "_REOPEN_BYTES", 1)
  opened = []
  load = pytorch_files._load
  monkeypatch.setattr(pytorch_files, "_load", lambda path: opened.append(path) or load(path))
  with PyTorchReader(state(tmp_path, {"a": torch.ones(3)})) as reader:
    assert [reader.read("a").tolist() for _ in range(3)] == [[1.0] * 3] * 3
  assert len(opened) == 1 + 3


class Exploit:
  def __reduce__(self):
    return Path.touch, (Path("exploited"),)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (
      {"a": Exploit()},
      "holds .* beside tensors, and loading that could run code that the file brings: get ",
    ),
    ([torch.ones(2)], "holds a list, expected dense tensors by name"),
    ({"epoch": 3}, "holds 'epoch': int, expected dense tensors by name"),
    ({"state_dict": {"a": torch.ones(2)}}, "holds 'state_dict': dict"),
    ({"a": torch.ones(2).to_sparse()}, "holds 'a': Tensor, expected dense"),
  ],
)
def test_a_file_of_anything_else_is_named_and_not_run(
  tmp_path: Path, content: object, message: str, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(CheckpointError, match=f"pytorch_model.bin .*{message}") as raised:
    PyTorchReader(state(tmp_path, content))
  assert "weights_only" not in str(raised.value)
  assert not Path("exploited").exists()


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_a_truncated_file_is_named_with_its_size(tmp_path: Path, keep: int):
  file = state(tmp_path, {"a": torch.ones(3)}) / "pytorch_model.bin"
  file.write_bytes(file.read_bytes()[:keep])
  with pytest.raises(CheckpointError, match=r"pytorch_model.bin \(.* bytes\) is truncated or corrupt"):
    PyTorchReader(tmp_path)


def test_a_file_of_old_torch_is_told_from_a_damaged_one(tmp_path: Path):
  torch.save({"a": torch.ones(3)}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
  with pytest.raises(CheckpointError, match=r"before version 1\.6: write it anew with torch, torch\.save\("):
    PyTorchReader(tmp_path)


def test_a_tensor_in_two_files_is_an_error(tmp_path: Path):
  for file in ("a.bin", "b.bin"):
    torch.save({"same": torch.zeros(2)}, tmp_path / file)
  with pytest.raises(CheckpointError, match=r"same is in both a\.bin and b\.bin"):
    open_reader(tmp_path)


def test_a_shard_that_is_missing_is_named(tmp_path: Path):
  path = pytorch(CASE, tmp_path, files=("one.bin", "two.bin"))
  (path / "two.bin").unlink()
  with pytest.raises(CheckpointError, match=r"index\.json names two\.bin, which does not exist"):
    open_reader(path)


def test_without_torch_the_error_says_how_to_get_it(tmp_path: Path):
  program = (
    "import sys\n"
    "sys.modules['torch'] = None  # importing it fails\n"
    "import lynx_jax\n"
    "try:\n"
    f"  lynx_jax.load({str(pytorch(CASE, tmp_path))!r})\n"
    "except ValueError as error:\n"
    "  print(error)\n"
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  assert "pytorch_model.bin holds PyTorch weights, and torch is not installed: pip install" in done.stdout
