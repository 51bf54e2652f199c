"""Tokenizers that GGUF files hold, against the originals that they were written from."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from checkpoints_convert.gguf_files import read_metadata
from lynx_jax.text.gguf_tokenizer import SPLITTINGS
from lynx_jax.text.tokenizer import Tokenizer
from tests.text.test_chat import deepseek, mixtral, qwen3

TokenType = gguf.TokenType
TEXTS = (
  "",
  " ",
  "The quick brown fox jumps over the lazy dog.",
  "  leading, trailing  \n\n\tand 12345 numbers, 3.14, 1,000,000, ٣٤٥ ½ ²",
  "I'VE I've you'Re DON'T d'accord 'tis it's",
  "naïve café, größer, Ωμέγα, 你好世界, こんにちは, 가나다 🦊👩‍💻 e\u0301 \u0130",
  "def f(x):\n    return {'a': [x ** 2, '<|not special|>']}\n\n\n\r\n  \r\n",
  "CamelCaseAndXMLHttp  a    b        c\u00a0d\u3000e",
  "https://example.org/a/b?c=d&e#f -- !!!???...///\\\\ $%^",
)


def written(path: Path, fill: Callable[[gguf.GGUFWriter], None]) -> Mapping[str, Any]:
  """The metadata of a file without tensors, as our reader finds it."""
  writer = gguf.GGUFWriter(path, "qwen3moe")
  fill(writer)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  return read_metadata(path)


def byte_level(writer: gguf.GGUFWriter, directory: Path, name: str, size: int) -> None:
  """As llama.cpp's converter writes a tokenizer.json: tokens by id, kinds, merges, special ids, the template."""
  backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
  tokens = {index: token for token, index in backend.get_vocab(with_added_tokens=True).items()}
  added = backend.get_added_tokens_decoder()
  kinds = []
  for index in range(size):
    if index not in tokens:
      kinds.append(TokenType.UNUSED)
    elif index in added:
      kinds.append(TokenType.CONTROL if added[index].special else TokenType.USER_DEFINED)
    else:
      kinds.append(TokenType.NORMAL)
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre(name)
  writer.add_token_list([tokens.get(index, f"[PAD{index}]") for index in range(size)])
  writer.add_token_types(kinds)
  gguf.SpecialVocab(directory, load_merges=True).add_to_gguf(writer)


def sentencepiece_style(writer: gguf.GGUFWriter, directory: Path) -> None:
  """As llama.cpp's converter writes a tokenizer.model."""
  model = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
  kinds = []
  for index in range(len(model)):
    kind = TokenType.NORMAL
    for found, other in (
      (model.IsUnknown, TokenType.UNKNOWN), (model.IsControl, TokenType.CONTROL), (model.IsByte, TokenType.BYTE),
    ):  # fmt: skip
      kind = other if found(index) else kind
    kinds.append(kind)
  writer.add_tokenizer_model("llama")
  writer.add_tokenizer_pre("default")
  writer.add_token_list([model.IdToPiece(index) for index in range(len(model))])
  writer.add_token_scores([model.GetScore(index) for index in range(len(model))])
  writer.add_token_types(kinds)
  gguf.SpecialVocab(directory, n_vocab=len(model)).add_to_gguf(writer)


RELEASED = {"deepseek_v3": (deepseek, "deepseek-v3", 129280), "qwen3": (qwen3, "qwen2", 151936)}


@pytest.fixture(scope="module", params=["deepseek_v3", pytest.param("qwen3", marks=pytest.mark.slow), "mixtral"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Tokenizer]:
  """A released model's tokenizer from its GGUF file, and from its own files."""
  path = tmp_path_factory.mktemp(request.param)
  if request.param == "mixtral":
    mixtral(path)
    (path / "config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    metadata = written(path / "x.gguf", functools.partial(sentencepiece_style, directory=path))
  else:
    make, name, size = RELEASED[request.param]
    make(path)
    if name == "qwen2":
      # As in Qwen's own tokenizer.json; what was made here comes from tiktoken's form.
      backend = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
      backend.normalizer = normalizers.NFC()
      backend.save(str(path / "tokenizer.json"))
    metadata = written(path / "x.gguf", functools.partial(byte_level, directory=path, name=name, size=size))
  ours, original = Tokenizer.from_gguf(metadata, path / "x.gguf"), Tokenizer.from_directory(path)
  assert ours is not None
  assert original is not None
  return ours, original


def test_ids_and_texts_are_those_of_released_tokenizers(pair: tuple[Tokenizer, Tokenizer]):
  ours, original = pair
  special = "".join(filter(None, (original.bos_token, "a b", original.eos_token, "\n\nc")))
  for text in (*TEXTS, special):
    ids = original.encode(text)
    assert ours.encode(text) == ids, text
    assert ours.encode(text, add_special_tokens=False) == original.encode(text, add_special_tokens=False)
    assert ours.decode(ids) == original.decode(ids)
  assert (ours.bos_id, ours.eos_id) == (original.bos_id, original.eos_id)
  assert ours.open_ids == original.open_ids


def test_chats_are_those_of_released_tokenizers(pair: tuple[Tokenizer, Tokenizer]):
  ours, original = pair
  messages = [{"role": "user", "content": "What is 2 < 3 & 'ä'?\n"}]
  assert ours.apply_chat(messages) == original.apply_chat(messages)


# What the tokenizer.json of each name's models has, stated once more: normaliser, splits, whole words.
_LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT4O = (
  r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
  r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
  r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(expression: str) -> pre_tokenizers.Sequence:
  return pre_tokenizers.Sequence(
    [pre_tokenizers.Split(Regex(expression), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
  )


_DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)])
ORIGINALS: dict[str, tuple[Any, Any, bool]] = {
  "gpt-2": (None, pre_tokenizers.ByteLevel(False), False),
  "default": (None, pre_tokenizers.ByteLevel(False), False),
  "olmo": (normalizers.NFC(), pre_tokenizers.ByteLevel(False), False),
  "llama-bpe": (None, _split(_LLAMA3), True),
  "dbrx": (None, _split(_LLAMA3), False),
  "gpt-4o": (None, _split(_GPT4O), False),
  "qwen2": (normalizers.NFC(), _split(_LLAMA3.replace("{1,3}", "")), False),
  "refact": (None, _DIGITS, False),
}


def trained(normalizer: Any, splits: Any, whole_words: bool) -> tokenizers.Tokenizer:
  """A tokenizer of that way of splitting, trained on the texts above."""
  backend = tokenizers.Tokenizer(models.BPE(ignore_merges=whole_words))
  if normalizer is not None:
    backend.normalizer = normalizer
  backend.pre_tokenizer, backend.decoder = splits, decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=700, special_tokens=["<|end|>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
  )
  backend.train_from_iterator(TEXTS * 3, trainer)
  backend.add_tokens([AddedToken("<tool>", normalized=False)])
  backend.post_processor = processors.TemplateProcessing(
    single="<|end|> $A", pair="<|end|> $A <|end|>:1 $B:1", special_tokens=[("<|end|>", 0)]
  )
  return backend


@functools.cache
def _trained_pair(name: str, folder: Path) -> tuple[Tokenizer, Tokenizer]:
  path = folder / name
  path.mkdir()
  trained(*ORIGINALS[name]).save(str(path / "tokenizer.json"))
  config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|end|>", "add_bos_token": True}
  (path / "tokenizer_config.json").write_text(json.dumps(config))
  metadata = written(path / "x.gguf", functools.partial(byte_level, directory=path, name=name, size=720))
  ours, original = Tokenizer.from_gguf(metadata, path / "x.gguf"), Tokenizer.from_directory(path)
  assert ours is not None
  assert original is not None
  return ours, original


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
  yield tmp_path_factory.mktemp("trained")
  _trained_pair.cache_clear()


@hypothesis.given(
  text=st.lists(st.text(max_size=12) | st.sampled_from([*TEXTS, "<|end|>", "<tool>", " "]), max_size=4).map("".join),
  name=st.sampled_from(sorted(ORIGINALS)),
)
@hypothesis.settings(max_examples=200, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_ids_are_those_of_originals_however_they_split(folder: Path, text: str, name: str):
  ours, original = _trained_pair(name, folder)
  assert ours.encode(text) == original.encode(text)


def test_every_way_of_splitting_has_an_original_here():
  judged = {SPLITTINGS[name] for name in (*ORIGINALS, *(name for _, name, _ in RELEASED.values()))}
  # DeepSeek-V2's tokenizer.json is in no package.
  assert judged == {how for name, how in SPLITTINGS.items() if name != "deepseek-llm"}


def test_what_is_not_known_is_named_with_the_way_out(tmp_path: Path):
  def fill(writer: gguf.GGUFWriter, model: str = "gpt2", pre: str = "default") -> None:
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(["a", "b"])

  for change, expected in (
    ({"pre": "glm4"}, r"tokenizer\.ggml\.pre is 'glm4': not supported; .*qwen2.* put the model's tokenizer\.json"),
    ({"model": "rwkv"}, r"tokenizer\.ggml\.model is 'rwkv': not supported"),
  ):
    metadata = written(tmp_path / "x.gguf", functools.partial(fill, **change))
    with pytest.raises(ValueError, match=expected):
      Tokenizer.from_gguf(metadata, tmp_path / "x.gguf")


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("tokenizer.ggml.tokens", []),
    ("tokenizer.ggml.token_type", np.array([1])),
    ("tokenizer.ggml.merges", ["a c"]),
    ("tokenizer.ggml.merges", ["ab"]),
  ],
)
def test_lists_that_do_not_fit_each_other_are_named(key: str, value: Any):
  metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b", "ab"], key: value}
  with pytest.raises(ValueError, match=r"x\.gguf"):
    Tokenizer.from_gguf(metadata, Path("x.gguf"))


def test_a_file_without_a_tokenizer_has_none():
  assert Tokenizer.from_gguf({"tokenizer.ggml.model": "no_vocab"}, Path("x.gguf")) is None
  assert Tokenizer.from_gguf({}, Path("x.gguf")) is None
