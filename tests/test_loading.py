"""`load`: what it accepts, what it refuses, and what it costs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import lynx_jax
from benchmarks.load_memory import load_memory
from checkpoints_convert.errors import CheckpointError
from lynx_jax import loading
from lynx_jax.models.checkpoints import convert
from lynx_jax.models.decoder import abstract_decoder
from lynx_jax.models.parameters import by_path
from lynx_jax.placement import Role, place
from lynx_jax.testing import random_checkpoint
from pallas_kernels.cpu.huge_pages import aligned_empty
from tests.checkpoints_convert.tampering import copied, with_tensors
from tests.families.cases import MIXTRAL, OLMOE, QWEN3_MOE, checkpoint, reference

CASE = QWEN3_MOE[3]


def test_the_tree_is_that_of_the_decoder():
  params = lynx_jax.load(checkpoint(CASE))
  assert jax.tree.structure(params.decoder) == jax.tree.structure(abstract_decoder(params.spec))
  assert params.spec.family == "qwen3_moe"
  assert params.tokenizer is None


def test_weights_are_where_the_decoder_looks_for_them():
  state = reference(CASE).state_dict()
  layer: Any = lynx_jax.load(str(checkpoint(CASE))).decoder.layers[1]
  ours = {
    "self_attn.k_proj.weight": layer.attention.key,
    "self_attn.o_proj.bias": layer.attention.output_bias,
    "self_attn.k_norm.weight": layer.attention.key_norm.scale,
    "post_attention_layernorm.weight": layer.ffn_norm.scale,
    "mlp.gate.weight": layer.ffn.router,
    "mlp.experts.gate_up_proj": layer.ffn.gate_up,
    "mlp.experts.down_proj": layer.ffn.down,
  }
  for name, parameter in ours.items():
    np.testing.assert_array_equal(parameter[...], state[f"model.layers.1.{name}"].numpy(), err_msg=name)


@pytest.mark.parametrize(
  ("stored", "dtype", "expected"),
  [
    ("bfloat16", None, "bfloat16"),
    ("float32", None, "float32"),
    ("float32", "bfloat16", "bfloat16"),
    ("bfloat16", jnp.float32, "float32"),
    ("float32", np.float16, "float16"),
  ],
)
def test_the_dtype_is_the_checkpoints_or_the_one_asked_for(stored: str, dtype, expected: str):
  params = lynx_jax.load(checkpoint(CASE, stored), dtype=dtype)
  assert {array.dtype.name for array in by_path(params.decoder).values()} == {expected}
  original = reference(CASE).state_dict()["model.norm.weight"].numpy()
  rounded = original.astype(ml_dtypes.bfloat16) if stored == "bfloat16" else original
  np.testing.assert_array_equal(np.asarray(params.decoder.final_norm.scale[...]), rounded.astype(np.dtype(expected)))


def test_a_converted_directory_loads_bit_for_bit(tmp_path: Path):
  convert(checkpoint(CASE, "bfloat16"), tmp_path / "out")
  hub, converted = lynx_jax.load(checkpoint(CASE, "bfloat16")), lynx_jax.load(tmp_path / "out")
  assert hub.spec == converted.spec
  for first, second in zip(jax.tree.leaves(hub), jax.tree.leaves(converted), strict=True):
    assert np.asarray(first).tobytes() == np.asarray(second).tobytes()


def test_two_loads_share_one_compilation():
  traces = 0

  @jax.jit
  def total(params):
    nonlocal traces
    traces += 1
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))

  first, second = total(lynx_jax.load(checkpoint(CASE))), total(lynx_jax.load(checkpoint(CASE)))
  assert traces == 1
  assert first == second


def test_weights_come_without_a_copy_on_the_cpu():
  experts = aligned_empty((4, 64, 64), np.dtype(ml_dtypes.bfloat16))
  for role in (Role.EXPERT, Role.PROJECTION):
    (held,) = jax.tree.leaves(place(experts, role))
    assert held.unsafe_buffer_pointer() == experts.ctypes.data


@pytest.mark.parametrize(
  ("path", "kind", "message"),
  [
    ("/nowhere/at/all", FileNotFoundError, "/nowhere/at/all does not exist"),
    ("", ValueError, "path is '': expected a model directory; None is the embedded model"),
    ("Qwen3-30B-A3B", FileNotFoundError, "weights must be downloaded first: hf download ORGANISATION/Qwen3-30B-A3B"),
    ("mistralai/Mixtral-8x7B-v0.1", FileNotFoundError, "huggingface-cli download"),
    (__file__, NotADirectoryError, "is a file: give the directory"),
    (str(Path(__file__).parent), FileNotFoundError, r"has no config\.json"),
  ],
)
def test_a_path_that_is_no_checkpoint_is_named(path: str, kind: type[OSError], message: str):
  with pytest.raises(kind, match=message):
    lynx_jax.load(path)


def test_an_installation_without_the_embedded_model_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(loading.resources, "files", lambda package: tmp_path)
  with pytest.raises(FileNotFoundError, match=r"no embedded model .*give the path of a model directory"):
    lynx_jax.load()


def test_the_embedded_model_is_loaded_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  copied(OLMOE[0], tmp_path).rename(tmp_path / "embedded")
  monkeypatch.setattr(loading.resources, "files", lambda package: tmp_path)
  assert lynx_jax.load().spec.family == "olmoe"


def test_an_unknown_dtype_is_named():
  with pytest.raises(ValueError, match="dtype is 'float64': not supported; supported: bfloat16"):
    lynx_jax.load(checkpoint(CASE), dtype="float64")


def edit_config(path: Path, **changes) -> Path:
  config = json.loads((path / "config.json").read_text()) | changes
  (path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))
  return path


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model_type": "gpt2"}, "model_type 'gpt2'; supported: .*mixtral"),
    ({"hidden_size": "gone"}, "no 'hidden_size'"),
    ({"hidden_act": "relu"}, "hidden_act to 'relu'"),
    ({"num_key_value_heads": 3}, r"kv_heads is 3: expected a divisor of heads 4"),
    ({"vocab_size": 0}, "vocab is 0"),
    ({"hidden_size": "many"}, "hidden_size to 'many': not supported; supported: a whole number"),
    ({"eos_token_id": 101}, "stop_ids"),
    ({"num_hidden_layers": 1}, r"tensors that nothing uses: model\.layers\.1"),
    ({"num_hidden_layers": 3}, r"tensors missing: model\.layers\.2"),
    ({"num_local_experts": 5}, r"gate.weight \(expected \[5, 64\], found \[4, 64\]\)"),
    ({"tie_word_embeddings": True}, "differ: set tie_word_embeddings to false"),
  ],
)
def test_a_config_that_does_not_fit_is_named_with_its_directory(tmp_path: Path, changes: dict, message: str):
  path = edit_config(copied(MIXTRAL[0], tmp_path), **changes)
  (path / "generation_config.json").unlink()
  with pytest.raises(CheckpointError, match=message) as raised:
    lynx_jax.load(path)
  assert str(path) in str(raised.value)


def test_the_end_of_text_of_the_generation_config_counts(tmp_path: Path):
  path = copied(MIXTRAL[0], tmp_path)
  (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
  assert lynx_jax.load(path).spec.stop_ids == (7, 8)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path):
  name = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
  path = with_tensors(MIXTRAL[0], tmp_path, lambda tensors: tensors | {name: tensors[name][:, :32].copy()})
  with pytest.raises(CheckpointError, match=rf"{name} \(expected \[48, 64\], found \[48, 32\]\)"):
    lynx_jax.load(path)


def test_loading_imports_neither_torch_nor_transformers_nor_orbax():
  program = (
    "import sys\n"
    "# Importing any of these fails.\n"
    "for name in ('torch', 'transformers', 'orbax.checkpoint'): sys.modules[name] = None\n"
    "import lynx_jax\n"
    f"params = lynx_jax.load({str(checkpoint(CASE, 'bfloat16'))!r})\n"
    "print(params.spec.family)\n"
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout) == (0, "qwen3_moe\n"), done.stderr


@pytest.fixture(scope="module")
def sizeable(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A bfloat16 checkpoint of 270 MB in several files, with random weights."""
  path = tmp_path_factory.mktemp("sizeable") / "model"
  arguments = ["--layers", "8", "--experts", "4", "--vocab", "500", "--shard-mb", "40"]
  assert random_checkpoint.main([str(path), *arguments]) == 0
  assert len(list(path.glob("*.safetensors"))) > 3
  return path


@pytest.mark.parametrize(
  ("converted", "dtype", "most"), [(False, "", 1.1), (False, "float32", 1.1), (False, "float16", 1.1), (True, "", 1.3)]
)
def test_the_host_never_holds_the_model_twice(
  sizeable: Path, tmp_path: Path, converted: bool, dtype: str, most: float, monkeypatch: pytest.MonkeyPatch
):
  if converted:
    convert(sizeable, tmp_path / "out")
    # What Orbax's threads give back, glibc keeps for them (docs/LOG.md); this is about what our code holds.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
  found = load_memory(tmp_path / "out" if converted else sizeable, dtype)
  assert found.weights > 200e6
  assert 0.9 < found.ratio < most


def test_the_measurement_sees_a_model_that_is_held_twice(sizeable: Path):
  assert load_memory(sizeable, loader="tests.loads_twice:load").ratio > 1.8
