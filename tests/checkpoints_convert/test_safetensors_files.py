"""Damaged, incomplete and unusual files are errors that name the file or the tensor."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.files import read_json
from checkpoints_convert.safetensors_files import INDEX, SINGLE, SafetensorsReader
from lynx_jax.models.checkpoints import open_model
from tests.checkpoints_convert.tampering import copied, sharded, with_tensors
from tests.families.cases import MIXTRAL, reference

CASE = MIXTRAL[0]


def test_bfloat16_comes_bit_for_bit(tmp_path: Path):
  every = np.arange(2**16, dtype=np.uint16)
  save_file({"every": every.view(ml_dtypes.bfloat16)}, tmp_path / SINGLE)
  with SafetensorsReader(tmp_path) as reader:
    found = reader.read("every")
    assert reader.dtypes == {"every": "BF16"}
  assert found.dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(found.view(np.uint16), every)


def test_a_file_that_shrinks_after_it_was_opened_is_named(tmp_path: Path):
  path = copied(CASE, tmp_path)
  reader = SafetensorsReader(path)
  with reader:
    last = max(reader._offsets, key=reader._offsets.__getitem__)
    (path / SINGLE).write_bytes((path / SINGLE).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"truncated or corrupt \(.* numbers\): download it again"):
      reader.read(last)


def test_shards_hold_the_same_tensors_as_one_file(tmp_path: Path):
  with SafetensorsReader(sharded(CASE, tmp_path)) as reader:
    assert len(set(reader.files.values())) > 2
    state = reference(CASE).state_dict()
    name = "model.layers.1.self_attn.q_proj.weight"
    np.testing.assert_array_equal(reader.read(name), state[name].numpy())


@pytest.mark.parametrize("keep", [0, 4, 100, -1000])
def test_a_truncated_file_is_named_with_its_size(tmp_path: Path, keep: int):
  path = copied(CASE, tmp_path)
  file = path / SINGLE
  file.write_bytes(file.read_bytes()[:keep])
  with pytest.raises(CheckpointError, match=r"model.safetensors \(.* bytes\) is truncated or corrupt"):
    SafetensorsReader(path)


def test_an_index_that_names_an_absent_file_is_an_error(tmp_path: Path):
  path = sharded(CASE, tmp_path)
  gone = sorted(path.glob("*.safetensors"))[1]
  gone.unlink()
  with pytest.raises(CheckpointError, match=f"{INDEX} names {gone.name}, which does not exist"):
    SafetensorsReader(path)


def change_index(path: Path, **changes: str | None) -> None:
  index = json.loads((path / INDEX).read_text())
  index["weight_map"] = {k: v for k, v in (index["weight_map"] | changes).items() if v is not None}
  (path / INDEX).write_text(json.dumps(index))


def test_an_index_that_lists_a_tensor_elsewhere_is_an_error(tmp_path: Path):
  path = sharded(CASE, tmp_path)
  first, *_, last = sorted(file.name for file in path.glob("*.safetensors"))
  with SafetensorsReader(path) as reader:
    name = next(name for name, file in reader.files.items() if file == first)
  change_index(path, **{name: last})
  with pytest.raises(CheckpointError, match=f"disagree on 1 tensors: {name} is listed in {last} and found in {first}"):
    SafetensorsReader(path)


def test_an_index_that_omits_a_tensor_is_an_error(tmp_path: Path):
  path = sharded(CASE, tmp_path)
  change_index(path, **{"model.norm.weight": None})
  with pytest.raises(CheckpointError, match=r"model\.norm\.weight is listed in no file and found in"):
    SafetensorsReader(path)


def test_an_index_that_lists_a_tensor_that_is_nowhere_is_an_error(tmp_path: Path):
  path = sharded(CASE, tmp_path)
  change_index(path, ghost=sorted(file.name for file in path.glob("*.safetensors"))[0])
  with pytest.raises(CheckpointError, match=r"ghost is listed in model-.* and found in no file"):
    SafetensorsReader(path)


def test_an_index_may_not_lead_outside_the_directory(tmp_path: Path):
  path = sharded(CASE, tmp_path)
  change_index(path, ghost="../elsewhere.safetensors")
  with pytest.raises(CheckpointError, match=r"names '\.\./elsewhere.safetensors': expected a file beside it"):
    SafetensorsReader(path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index_is_named(tmp_path: Path, content: str):
  (tmp_path / INDEX).write_text(content)
  with pytest.raises(CheckpointError, match=f"{INDEX} .*download it again"):
    SafetensorsReader(tmp_path)


def test_a_tensor_in_two_files_is_an_error(tmp_path: Path):
  for file in ("a.safetensors", "b.safetensors"):
    save_file({"same": np.zeros(2, np.float32)}, tmp_path / file)
  (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"same": "a.safetensors", "x": "b.safetensors"}}))
  with pytest.raises(CheckpointError, match=r"same is in both a\.safetensors and b\.safetensors"):
    SafetensorsReader(tmp_path)


def test_a_directory_without_weights_is_an_error(tmp_path: Path):
  with pytest.raises(CheckpointError, match=f"neither {SINGLE} nor {INDEX}"):
    SafetensorsReader(tmp_path)


def test_a_quantised_tensor_is_named_with_its_type(tmp_path: Path):
  name = "model.layers.0.self_attn.q_proj.weight"
  path = with_tensors(CASE, tmp_path, lambda tensors: tensors | {name: tensors[name].astype(np.int8)})
  with pytest.raises(CheckpointError, match=f"{name} has type I8: not supported"), open_model(path):
    pass


def test_mixed_dtypes_need_a_choice(tmp_path: Path):
  name = "model.norm.weight"
  path = with_tensors(CASE, tmp_path, lambda tensors: tensors | {name: tensors[name].astype(np.float16)})
  with open_model(path) as (_, source):
    with pytest.raises(CheckpointError, match=rf"mixes float16 \({name}\), float32 .*dtype='bfloat16'"):
      source.dtype  # noqa: B018
    found = dict(source.parameters(np.dtype(np.float32)))
  assert {array.dtype.name for array in found.values()} == {"float32"}


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[1]"])
def test_json_that_is_no_object_is_named(tmp_path: Path, content: bytes):
  file = tmp_path / "config.json"
  file.write_bytes(content)
  with pytest.raises(CheckpointError, match=r"config\.json .*download it again"):
    read_json(file)
