"""GGUF files as llama.cpp's own package writes them; and truncated, corrupt and hostile ones."""

import contextlib
import struct
from pathlib import Path
from typing import Any

import gguf
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.gguf_blocks import LAYOUTS, dequantise
from checkpoints_convert.gguf_files import GGUFReader, find_gguf
from checkpoints_convert.gguf_header import read_header
from checkpoints_convert.gguf_types import TYPES

FLOAT32 = np.dtype(np.float32)
TENSORS = {
  "blk.0.a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "b": np.array([1.5, -2.0], np.float16),
  "c": np.arange(96, dtype=np.float32).reshape(3, 1, 32) / 32,
}


def write(path: Path, **options: Any) -> Path:
  writer = gguf.GGUFWriter(path, "llama", **options)
  writer.add_uint32("llama.block_count", 7)
  writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-6)
  writer.add_bool("flag", True)
  writer.add_int64("negative", -(2**40))
  writer.add_array("tokens", ["a", "é", ""])
  writer.add_array("scores", [0.5, -1.0, 2.0])
  writer.add_array("kinds", [1, 3, 6])
  writer.add_array("flags", [True, False])
  for name, array in TENSORS.items():
    if name == "c":
      writer.add_tensor(
        name, gguf.quantize(array, gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0
      )
    else:
      writer.add_tensor(name, array)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return write(tmp_path_factory.mktemp("gguf") / "x.gguf")


def test_what_was_written_is_read(file: Path):
  with GGUFReader(file) as reader:
    found = dict(reader.metadata)
    assert found.pop("general.architecture") == "llama"
    assert found.pop("llama.attention.layer_norm_rms_epsilon") == 1e-6
    np.testing.assert_array_equal(found.pop("scores"), np.array([0.5, -1, 2], np.float32))
    np.testing.assert_array_equal(found.pop("kinds"), [1, 3, 6])
    np.testing.assert_array_equal(found.pop("flags"), [True, False])
    assert found == {"llama.block_count": 7, "flag": True, "negative": -(2**40), "tokens": ["a", "é", ""]}
    assert reader.shapes == {name: array.shape for name, array in TENSORS.items()}
    assert reader.dtypes == {"blk.0.a.weight": "F32", "b": "F16", "c": "Q8_0"}
    for name in ("blk.0.a.weight", "b"):
      np.testing.assert_array_equal(reader.read(name), TENSORS[name])
    raw = gguf.quantize(TENSORS["c"], gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(reader.read("c"), raw)


def test_every_type_has_the_size_that_llama_cpp_gives_it():
  for kind, sizes in gguf.GGML_QUANT_SIZES.items():
    if int(kind) in TYPES:
      assert TYPES[int(kind)] == (kind.name, *sizes)


@pytest.mark.parametrize("code", sorted(LAYOUTS))
def test_blocks_of_any_bits_mean_what_llama_cpp_reads_in_them(code: str):
  kind = gguf.GGMLQuantizationType[code]
  numbers, nbytes = gguf.GGML_QUANT_SIZES[kind]
  rows = np.random.default_rng(0).integers(0, 256, (2, 3, 40 * nbytes), np.uint8)
  if code == "MXFP4":
    # The largest exponent is no number (OCP Microscaling Formats 1.0); llama.cpp reads a power of two.
    rows[..., ::nbytes] = np.minimum(rows[..., ::nbytes], 254)
  with np.errstate(over="ignore", invalid="ignore"):
    expected = gguf.dequantize(rows, kind)
  found = dequantise(rows, code, FLOAT32)
  assert found.shape == (2, 3, 40 * numbers)
  np.testing.assert_array_equal(found, expected)
  once = dequantise(rows, code, np.dtype(np.float16))
  with np.errstate(over="ignore"):
    np.testing.assert_array_equal(once, expected.astype(np.float16))


def test_large_tensors_go_in_parts(monkeypatch: pytest.MonkeyPatch):
  rows = np.random.default_rng(0).integers(0, 256, (5, 3 * 144), np.uint8)
  whole = dequantise(rows, "Q4_K", FLOAT32)
  monkeypatch.setattr("checkpoints_convert.gguf_blocks._CHUNK", 700)
  np.testing.assert_array_equal(dequantise(rows, "Q4_K", FLOAT32), whole)


def test_a_file_cut_off_anywhere_is_an_error_that_names_it(file: Path, tmp_path: Path):
  data = file.read_bytes()
  # The last tensor is filled up to 32 bytes, which nobody misses.
  whole = max(tensor.offset + tensor.nbytes for tensor in read_header(file).tensors.values())
  for length in range(whole):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[:length])
    with pytest.raises(CheckpointError, match=r"cut\.gguf"):
      GGUFReader(cut)


@hypothesis.given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=4))
@hypothesis.settings(max_examples=300, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_corrupt_headers_are_errors_or_read_within_the_file(file: Path, tmp_path: Path, changes):
  data = bytearray(file.read_bytes())
  for at, value in changes:
    data[at % len(data)] = value
  broken = tmp_path / "broken.gguf"
  broken.write_bytes(data)
  with contextlib.suppress(CheckpointError):
    for tensor in read_header(broken).tensors.values():
      assert 0 < tensor.offset <= len(data) - tensor.nbytes


def header(tensors: int = 0, keys: int = 0, body: bytes = b"", version: int = 3) -> bytes:
  return struct.pack("<4sIQQ", b"GGUF", version, tensors, keys) + body


def text(value: str) -> bytes:
  return struct.pack("<Q", len(value.encode())) + value.encode()


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
  return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HOSTILE = {
  "another format": (b"PK\x03\x04" + bytes(40), r"does not begin with GGUF"),
  "big-endian": (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), r"is big-endian: not supported"),
  "an old version": (header(version=1), r"is GGUF of version 1: not supported; supported: versions 2 and 3"),
  "many tensors": (header(tensors=2**63), r"claims 9,223,372,036,854,775,808 tensors"),
  "many keys": (header(keys=2**40, body=bytes(100)), r"claims 1,099,511,627,776 keys"),
  "a long key": (header(keys=1, body=struct.pack("<Q", 2**62)), r"its header is cut off"),
  "a long list": (
    header(keys=1, body=text("k") + struct.pack("<IIQ", 9, 4, 2**60)),
    r"claims 1,152,921,504,606,846,976 entries of 'k'",
  ),
  "lists in lists": (
    header(keys=1, body=text("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(64)),
    r"'k' is a list of type 9",
  ),
  "a value of no type": (header(keys=1, body=text("k") + struct.pack("<I", 77)), r"'k' has a value of type 77"),
  "a key twice": (header(keys=2, body=2 * (text("k") + struct.pack("<IB", 0, 1))), r"key 'k' is there twice"),
  "no UTF-8": (header(keys=1, body=struct.pack("<Q", 1) + b"\xff"), r"is no UTF-8"),
  "no alignment": (
    header(keys=1, body=text("general.alignment") + struct.pack("<II", 4, 3)),
    r"general\.alignment is 3, expected a power",
  ),
  "no axes": (header(tensors=1, body=tensor("t", (), 0, 0)), r"tensor 't' has 0 axes"),
  "many axes": (header(tensors=1, body=tensor("t", (1,) * 9, 0, 0)), r"tensor 't' has 9 axes"),
  "no numbers": (header(tensors=1, body=tensor("t", (0,), 0, 0)), r"tensor 't' of F32 has shape \[0\]"),
  "half a block": (header(tensors=1, body=tensor("t", (16, 2), 8, 0)), r"tensor 't' of Q8_0 has shape \[2, 16\]"),
  "an unknown type": (header(tensors=1, body=tensor("t", (1,), 99, 0)), r"tensor t has type 99: not supported; known"),
  "a huge tensor": (header(tensors=1, body=tensor("t", (2**40, 2**40), 0, 0)), r"tensor 't' ends at byte 4,835,703"),
  "out of line": (header(tensors=1, body=tensor("t", (1,), 0, 8) + bytes(64)), r"tensor 't' begins at byte 8"),
  "one in another": (
    header(tensors=2, body=tensor("s", (16,), 0, 0) + tensor("t", (1,), 0, 32) + bytes(128)),
    r"'t' begins .* in tensor 's'",
  ),
  "a tensor twice": (
    header(tensors=2, body=tensor("t", (1,), 0, 0) + tensor("t", (1,), 0, 32) + bytes(128)),
    r"tensor 't' is there twice",
  ),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_what_cannot_be_is_named(name: str, tmp_path: Path):
  data, expected = HOSTILE[name]
  path = tmp_path / "x.gguf"
  path.write_bytes(data)
  with pytest.raises(CheckpointError, match=expected) as caught:
    read_header(path)
  assert "x.gguf" in str(caught.value)


def test_a_file_in_pieces_is_read_from_any_of_them(tmp_path: Path):
  write(tmp_path / "x.gguf", split_max_tensors=1)
  pieces = sorted(tmp_path.glob("x-0000?-of-00003.gguf"))
  assert len(pieces) == 3
  assert find_gguf(tmp_path) == pieces[0]
  for piece in pieces:
    with GGUFReader(piece) as reader:
      assert reader.path == pieces[0]
      assert reader.metadata["llama.block_count"] == 7
      assert set(reader.shapes) == set(TENSORS)
      np.testing.assert_array_equal(reader.read("b"), TENSORS["b"])
  renamed = pieces[1].rename(tmp_path / "alone.gguf")
  with pytest.raises(
    CheckpointError, match=r"alone\.gguf is one of 3 pieces, whose names end in -00001-of-00003\.gguf"
  ):
    GGUFReader(renamed)
  with pytest.raises(CheckpointError, match=r"x-00002-of-00003\.gguf is not beside it: download it"):
    GGUFReader(pieces[0])


def test_a_directory_has_one_model_at_most(file: Path, tmp_path: Path):
  assert find_gguf(tmp_path) is None
  assert find_gguf(tmp_path / "nothing") is None
  first = tmp_path / "a.gguf"
  first.write_bytes(file.read_bytes())
  (tmp_path / "mmproj-a.gguf").write_bytes(b"")
  assert find_gguf(tmp_path) == find_gguf(first) == first
  (tmp_path / "b.gguf").write_bytes(b"")
  with pytest.raises(CheckpointError, match=r"has 2 GGUF models: give one of them, a\.gguf, b\.gguf"):
    find_gguf(tmp_path)


def test_a_file_is_known_by_its_first_bytes_too(file: Path, tmp_path: Path):
  other = tmp_path / "model.bin"
  other.write_bytes(file.read_bytes())
  assert find_gguf(other) == other
  other.write_bytes(b"{}")
  assert find_gguf(other) is None


def test_a_file_that_became_shorter_is_an_error(file: Path, tmp_path: Path):
  path = tmp_path / "x.gguf"
  path.write_bytes(file.read_bytes())
  with GGUFReader(path) as reader:
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(CheckpointError, match=r"c has .* of .* bytes"):
      reader.read("c")
