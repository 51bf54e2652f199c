"""GGUF files as models: every architecture and every type, held as they are, against the numbers that they hold.

Files are written by llama.cpp's own package. A file of float32 is judged by the Hugging Face directory that it was made
of, and quantised ones by a file of float32 with the numbers that the package reads in them.
"""

import functools
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

import lynx_jax
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.formats.gguf import KEPT
from lynx_jax.models.checkpoints import convert, open_model, read_spec
from lynx_jax.models.parameters import by_path
from lynx_jax.models.sizes import weight_bytes
from pallas_kernels import QuantizedWeight, dequantize
from pallas_kernels.weights.base import HeldWeight
from tests.checkpoints_convert.exported import loaded_by_transformers
from tests.checkpoints_convert.gguf_cases import GGUF_CASES
from tests.checkpoints_convert.gguf_writing import Kinds, Quant, everything, write_gguf
from tests.command_line import run
from tests.families.case import Case
from tests.families.cases import checkpoint, random_tokens
from tests.heard import heard

CASES = {case.family: case for case in GGUF_CASES}
EXACT = ("Q8_0", "Q4_0", "MXFP4")
_MATRICES = r"(query|key|value|output|query_down|query_up|latent|gate_up|down|head)$"
_forward = jax.jit(lynx_jax.forward)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return tmp_path_factory.mktemp("gguf")


def tokenizer(writer: gguf.GGUFWriter) -> None:
  """A word a letter, and numbers up to the models' vocabulary."""
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre("default")
  letters = list("abcdefghijklmnopqrstuvwxyz")
  writer.add_token_list([*letters, *(f"t{index}" for index in range(len(letters), 101))])
  writer.add_token_types([gguf.TokenType.NORMAL] * 101)
  writer.add_token_merges([])
  writer.add_chat_template("{{ messages[0]['content'] }}")


@functools.cache
def written(case: Case, kind: str, folder: Path) -> tuple[Path, Path]:
  """A file with matrices of one type, and one of float32 with the numbers that it holds."""
  names = [folder / f"{case}-{kind}{suffix}.gguf" for suffix in ("", "-float32")]
  held = write_gguf(names[0], checkpoint(case), everything(Quant[kind]), tokenizer=tokenizer)
  write_gguf(names[1], checkpoint(case), everything(Quant.F32), numbers=held, tokenizer=tokenizer)
  return names[0], names[1]


def logits(params: Any, tokens: np.ndarray) -> np.ndarray:
  return np.asarray(_forward(params, tokens))


def held(params: Any) -> dict[str, Any]:
  """Parameters by path, as the decoder holds them."""
  flat = nnx.to_flat_state(nnx.state(params.decoder))
  return {".".join(map(str, path)): variable.get_value() for path, variable in flat}


@pytest.mark.parametrize("family", CASES)
def test_files_of_float32_are_the_model_they_were_made_of(family: str, folder: Path):
  case = CASES[family]
  path = folder / f"{family}.gguf"
  write_gguf(path, checkpoint(case), everything(Quant.F32))
  assert read_spec(path) == read_spec(checkpoint(case))
  ours, original = (by_path(lynx_jax.load(source).decoder) for source in (path, checkpoint(case)))
  for name, array in original.items():
    np.testing.assert_array_equal(ours[name], array, err_msg=name)


@pytest.mark.parametrize(
  ("family", "kind"),
  [
    ("mixtral", "Q4_0"), ("qwen2_moe", "Q5_K"), ("qwen3_moe", "Q8_0"), ("gpt_oss", "MXFP4"), ("olmoe", "Q4_K"),
    ("granitemoe", "Q6_K"), ("dbrx", "Q4_1"), ("deepseek_v2", "Q5_0"), ("deepseek_v3", "Q8_0"),
  ],
)  # fmt: skip
def test_matrices_stay_in_few_bits_and_mean_the_numbers_of_the_file(family: str, kind: str, folder: Path):
  path, judge = written(CASES[family], kind, folder)
  ours, numbers = held(lynx_jax.load(path, dtype="float32")), by_path(lynx_jax.load(judge).decoder)
  forms = set()
  for name, expected in numbers.items():
    found = ours[name]
    quantised = isinstance(found, QuantizedWeight)
    # The head is what the embedding is where both are one.
    matrix = re.search(_MATRICES, name) or (name == "embedding" and family == "granitemoe")
    assert quantised == bool(matrix), name
    values = np.asarray(dequantize(found, np.float32) if isinstance(found, HeldWeight) else found)
    if not quantised:
      np.testing.assert_array_equal(values, expected, err_msg=name)
      continue
    forms.add((found.form.code, found.form.group))
    # A scale and a zero in float16 are off by one part in 2048 each; a number is at most the group's spread from zero.
    spread = np.abs(expected).max(axis=-1, keepdims=True)
    bound = 0 if kind in (*EXACT, "Q5_0") else 3 * 2.0**-11 * spread
    assert (np.abs(values - expected) <= bound).all(), name
  form = KEPT[kind].form
  assert (form.code, form.group) in forms
  assert forms <= {(form.code, form.group), ("int8", 32)}


@pytest.mark.parametrize(
  ("family", "kind", "said"),
  [
    ("olmoe", "Q4_K", "Q4_K held with scales rounded to float16 as int4_g32, in 5 bits a number for the file's 4.5"),
    ("olmoe", "Q5_0", "Q5_0 held exactly as int8_g32, in 8.5 bits a number for the file's 5.5"),
    ("mixtral", "Q4_0", None),
  ],
)
def test_types_that_are_not_held_as_the_file_has_them_are_said_in_one_line(
  family: str, kind: str, said: str | None, folder: Path
):
  path, _ = written(CASES[family], kind, folder)
  with heard() as lines:
    lynx_jax.load(path)
    lynx_jax.load(path, weights="float")
  assert len(lines) == (said is not None)
  assert said is None or lines[0].startswith(f"{path}: {said}")


BITS = {"Q8_0": 8.5, "Q4_0": 4.5, "MXFP4": 4.25, "Q4_K": 5.0, "Q5_K": 9.0, "Q6_K": 9.0}


@pytest.mark.parametrize("kind", BITS)
def test_what_is_held_has_the_bits_that_are_documented(kind: str, folder: Path):
  path, _ = written(CASES["qwen3_moe"], kind, folder)
  with open_model(path) as (_, opened):
    for name, one in opened.held.items():
      bits = 8 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one)) / math.prod(one.shape)
      assert bits == BITS[kind], name
  if kind in EXACT:
    assert weight_bytes(lynx_jax.load(path).decoder).total < 1.1 * path.stat().st_size


def plain(params: Any) -> Any:
  """The model with weights in the layout of files, which no native product reads: those round activations."""
  from pallas_kernels import relayout

  def moved(leaf: Any) -> Any:
    return relayout(jax.tree.map(np.asarray, leaf), "rows") if isinstance(leaf, QuantizedWeight) else leaf

  return jax.tree.map(moved, params, is_leaf=lambda leaf: isinstance(leaf, HeldWeight))


@pytest.mark.parametrize(("family", "kind"), [("mixtral", "Q4_0"), ("qwen3_moe", "Q8_0")])
def test_logits_are_those_of_the_numbers_of_the_file(family: str, kind: str, folder: Path):
  case = CASES[family]
  path, judge = written(case, kind, folder)
  tokens = random_tokens(case, rows=2, length=19)
  expected = logits(lynx_jax.load(judge), tokens)
  found = logits(plain(lynx_jax.load(path, dtype="float32")), tokens)
  assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("family", [pytest.param("qwen2_moe", marks=pytest.mark.slow), "qwen3_moe"])
def test_logits_are_those_of_transformers_reading_the_same_file(family: str, folder: Path, tmp_path: Path):
  case = CASES[family]
  path = tmp_path / "model.gguf"
  mixed = {"ffn_down_exps": Quant.Q6_K, "attn_v": Quant.Q6_K, "output.weight": Quant.Q8_0}

  def kinds(name: str, array: np.ndarray) -> Quant:
    found = everything(Quant.Q4_K)(name, array)
    return found if found is Quant.F32 else next((kind for part, kind in mixed.items() if part in name), found)

  write_gguf(path, checkpoint(case), kinds, tokenizer=tokenizer)
  # transformers does not read the width of experts from the file.
  model = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, gguf_file=path.name, config=case.config(), dtype=torch.float32
  )
  tokens = random_tokens(case, rows=2, length=19)
  with torch.no_grad():
    expected = model(torch.tensor(tokens, dtype=torch.long), use_cache=False).logits.numpy()
  found = logits(lynx_jax.load(path, dtype="float32", weights="float"), tokens)
  assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_conversion_keeps_the_packed_bytes_and_brings_the_tokenizer(folder: Path, tmp_path: Path):
  path, _ = written(CASES["mixtral"], "Q4_K", folder)
  convert(path, tmp_path / "orbax")
  ours, again = lynx_jax.load(path), lynx_jax.load(tmp_path / "orbax")
  assert again.spec == ours.spec
  for name, one in held(ours).items():
    for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(held(again)[name]), strict=True):
      assert first.dtype == second.dtype
      np.testing.assert_array_equal(np.asarray(first), np.asarray(second), err_msg=name)
  assert ours.tokenizer is not None
  assert ours.tokenizer.encode("zebra") == [25, 4, 1, 17, 0]
  assert again.tokenizer is not None
  assert again.tokenizer == ours.tokenizer
  assert again.tokenizer.apply_chat([{"role": "user", "content": "hi"}]) == "hi"
  record = json.loads((tmp_path / "orbax" / "conversion.json").read_text())
  assert list(record["source"]["files"]) == [path.name]
  convert(path, tmp_path / "hf", to="hf", weights="float", dtype="float32")
  tokens = random_tokens(CASES["mixtral"], rows=1, length=9)
  with torch.no_grad():
    expected = loaded_by_transformers(tmp_path / "hf")(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
  found = logits(lynx_jax.load(path, dtype="float32", weights="float"), tokens)
  assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_the_command_line_takes_a_file(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path):
  path, _ = written(CASES["qwen3_moe"], "Q8_0", folder)
  code, out, _ = run(capsys, "generate", "--model", path, "--max-new-tokens", 3, "abc")
  assert code == 0
  assert out.startswith("abc") or out.strip()
  code, out, _ = run(capsys, "info", path, "--json")
  assert code == 0
  facts = json.loads(out)
  assert facts["family"] == "qwen3_moe"
  assert facts["dtype"] == "bfloat16, stored as GGUF Q8_0"
  assert run(capsys, "convert", path, tmp_path / "made")[0] == 0
  assert (tmp_path / "made" / "tokenizer.json").is_file()


def test_a_directory_with_one_file_and_no_other_weights_is_that_file(folder: Path, tmp_path: Path):
  path, _ = written(CASES["qwen3_moe"], "Q8_0", folder)
  shutil.copy(path, tmp_path / "model.gguf")
  assert read_spec(tmp_path) == read_spec(path)
  tokens = random_tokens(CASES["qwen3_moe"], rows=1, length=5)
  np.testing.assert_array_equal(logits(lynx_jax.load(tmp_path), tokens), logits(lynx_jax.load(path), tokens))
  # A tokenizer beside the file comes first: it is the original.
  (tmp_path / "tokenizer.json").write_text(
    json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"abc": 7, "?": 0}, "unk_token": "?"}})
  )
  beside = lynx_jax.load(tmp_path / "model.gguf").tokenizer
  assert beside is not None
  assert beside.encode("abc") == [7]


def changed(case: Case, path: Path, change: Callable[[gguf.GGUFWriter], None], kinds: Kinds | None = None) -> Path:
  write_gguf(path, checkpoint(case), kinds or everything(Quant.F32), more=change)
  return path


@pytest.mark.parametrize(
  ("family", "key", "add", "value", "expected"),
  [
    ("qwen3_moe", "general.architecture", "string", "gemma4", r"architecture is 'gemma4': not supported; .*qwen3moe"),
    ("mixtral", "llama.expert_count", "uint32", 0, r"llama\.expert_count is 0: this is a model without experts"),
    ("mixtral", "llama.rope.dimension_count", "uint32", 32, r"llama\.rope\.dimension_count is 32: expected 64"),
    (
      "qwen3_moe",
      "qwen3moe.rope.scaling.type",
      "string",
      "longrope",
      r"rope\.scaling\.type is 'longrope': not supported",
    ),
    ("qwen3_moe", "qwen3moe.block_count", "float32", 1.5, r"qwen3moe\.block_count is 1\.5: expected a whole number"),
    (
      "qwen3_moe",
      "qwen3moe.expert_weights_scale",
      "float32",
      2.5,
      r"expert_weights_scale is 2\.5: expected 0\.0 or 1\.0",
    ),
    ("granitemoe", "granitemoe.expert_shared_feed_forward_length", "uint32", 8, r"forward_length is 8: expected 0"),
    (
      "deepseek_v3",
      "deepseek2.expert_gating_func",
      "uint32",
      3,
      r"expert_gating_func is 3: expected 1 \(softmax\) or 2",
    ),
    ("qwen3_moe", "qwen3moe.block_count", "uint32", 3, r"\.gguf: the weights do not fit config\.json: .*blk\.2\."),
  ],
)
def test_what_a_file_says_and_is_not_supported_is_named(
  family: str, key: str, add: str, value: Any, expected: str, tmp_path: Path
):
  def change(writer: gguf.GGUFWriter) -> None:
    for fields in writer.kv_data:
      fields.pop(key, None)
    getattr(writer, f"add_{add}")(key, value)

  path = changed(CASES[family], tmp_path / "x.gguf", change)
  with pytest.raises(CheckpointError, match=expected) as caught:
    lynx_jax.load(path)
  assert "x.gguf" in str(caught.value)


def test_tensors_that_are_not_supported_are_named(tmp_path: Path):
  case = CASES["qwen3_moe"]

  def vectors(writer: gguf.GGUFWriter) -> None:
    writer.add_tensor("blk.0.more.weight", np.zeros(66, np.uint8), raw_dtype=Quant.IQ2_XXS)

  path = changed(case, tmp_path / "types.gguf", vectors)
  with pytest.raises(
    CheckpointError, match=r"types\.gguf: tensor blk\.0\.more\.weight has type IQ2_XXS: not supported"
  ):
    lynx_jax.load(path)

  def frequencies(writer: gguf.GGUFWriter) -> None:
    writer.add_tensor("rope_freqs.weight", np.ones(32, np.float32))

  path = changed(case, tmp_path / "rope.gguf", frequencies)
  with pytest.raises(CheckpointError, match=r"rope\.gguf: tensor rope_freqs\.weight scales rotary frequencies"):
    lynx_jax.load(path)


def test_older_files_of_deepseek_say_less(tmp_path: Path):
  """Without groups, which the released models of 256 and 160 experts have; latents as heads of their own."""
  case = CASES["deepseek_v2"]
  with_latents = read_spec(changed(case, tmp_path / "new.gguf", lambda writer: None))

  def older(writer: gguf.GGUFWriter) -> None:
    for fields in writer.kv_data:
      for key in ("key_length_mla", "value_length_mla", "key_length", "value_length"):
        fields.pop(f"deepseek2.attention.{key}", None)
    writer.add_key_length(48)
    writer.add_value_length(64)

  assert read_spec(changed(case, tmp_path / "old.gguf", older)) == with_latents
