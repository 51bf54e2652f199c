"""Our tokenizer against transformers' on the same files: byte-level BPE, and SentencePiece style."""

import atexit
import copy
import dataclasses
import functools
import json
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from lynx_jax.text.tokenizer import Tokenizer

_TEXT = [
  "the quick brown fox jumps over the lazy dog",
  "she sells sea shells by the sea shore, doesn't she?",
  "numbers: 2 + 3 = 5, 10 * 10 = 100",
  "Zürich, naïve café, größer",
] * 20

CHAT = """{%- if messages[0]['role'] == 'system' -%}
    {{- raise_exception('no system messages here') }}
{%- endif %}
{{ bos_token }}
{%- for message in messages %}
    {%- if loop.index0 > 5 %}{% break %}{% endif %}
    {% generation %}
<|turn|>{{ message.role }}: {{ message['content'] | trim }}{{ eos_token }}
    {% endgeneration %}
    {%- if message.tool_calls is defined %} {{ message.tool_calls | tojson }}{% endif %}
{%- endfor %}
{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{% if add_generation_prompt %}
<|turn|>assistant:
{%- if thinking is defined and not thinking %} <no thinking>{% endif %}
{% endif %}
"""


def _byte_level() -> tokenizers.Tokenizer:
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
  trainer = trainers.BpeTrainer(
    vocab_size=400,
    special_tokens=["<|end|>", "<|turn|>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
  )
  tokenizer.train_from_iterator(_TEXT, trainer)
  return tokenizer


def _sentencepiece() -> tokenizers.Tokenizer:
  byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
  trained = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
  trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
  trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens])
  trained.train_from_iterator(_TEXT, trainer)
  model = json.loads(trained.to_str())["model"]
  merges = [tuple(merge) for merge in model["merges"]]
  tokenizer = tokenizers.Tokenizer(
    models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
  )
  tokenizer.normalizer = trained.normalizer
  tokenizer.decoder = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
  )
  tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
  tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
  return tokenizer


_BACKENDS = {"byte_level": _byte_level, "sentencepiece": _sentencepiece}
# Each: a backend, and what tokenizer_config.json adds to it.
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
  "byte_level": ("byte_level", {"eos_token": "<|end|>", "add_bos_token": False}),
  "byte_level_bare": ("byte_level", {}),
  "byte_level_framed": (
    "byte_level",
    {"bos_token": "<|end|>", "eos_token": "<|turn|>", "add_bos_token": True, "add_eos_token": True},
  ),
  "byte_level_bos_unset": ("byte_level", {"bos_token": None, "add_bos_token": True}),
  "byte_level_more_tokens": (
    "byte_level",
    {
      "eos_token": "<|stop|>",
      "additional_special_tokens": ["<|extra|>"],
      "added_tokens_decoder": {
        "400": {
          "content": "<tool>", "lstrip": False, "rstrip": True, "normalized": False, "single_word": False,
          "special": False,
        },
      },
    },
  ),
  "sentencepiece": ("sentencepiece", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
  "sentencepiece_no_bos": (
    "sentencepiece",
    {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False, "clean_up_tokenization_spaces": True},
  ),
}  # fmt: skip


@functools.cache
def directory(setting: str) -> Path:
  """A checkpoint directory with the setting's tokenizer files and nothing else."""
  backend, config = SETTINGS[setting]
  path = Path(tempfile.mkdtemp(prefix="lynx_jax_tokenizer_"))
  atexit.register(shutil.rmtree, path, ignore_errors=True)
  _BACKENDS[backend]().save(str(path / "tokenizer.json"))
  config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT, **config}
  (path / "tokenizer_config.json").write_text(json.dumps(config))
  return path


@functools.cache
def ours(setting: str) -> Tokenizer:
  tokenizer = Tokenizer.from_directory(directory(setting))
  assert tokenizer is not None
  return tokenizer


@functools.cache
def theirs(setting: str) -> Any:
  return transformers.PreTrainedTokenizerFast.from_pretrained(directory(setting))


@pytest.fixture(params=SETTINGS)
def setting(request: pytest.FixtureRequest) -> str:
  return request.param


_SPECIAL = st.sampled_from(["<|end|>", "<|turn|>", "<s>", "</s>", "<unk>", "<|stop|>", "<|extra|>", "<tool> ", " "])
_TEXTS = st.lists(st.text(max_size=12) | _SPECIAL | st.sampled_from(_TEXT), max_size=5).map("".join)


@hypothesis.given(text=_TEXTS, setting=st.sampled_from(sorted(SETTINGS)))
@hypothesis.settings(max_examples=300)
def test_ids_are_those_of_transformers(text: str, setting: str):
  assert ours(setting).encode(text) == theirs(setting).encode(text)
  bare = ours(setting).encode(text, add_special_tokens=False)
  assert bare == theirs(setting).encode(text, add_special_tokens=False)


@hypothesis.given(ids=st.lists(st.integers(0, 402), max_size=30), setting=st.sampled_from(sorted(SETTINGS)))
@hypothesis.settings(max_examples=300)
def test_text_is_that_of_transformers(ids: list[int], setting: str):
  expected = theirs(setting).decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
  assert ours(setting).decode(ids) == expected


@hypothesis.given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_byte_level_text_comes_back(text: str):
  tokenizer = ours("byte_level_bare")
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_special_tokens_are_those_of_transformers(setting: str):
  mine, other = ours(setting), theirs(setting)
  assert (mine.bos_token, mine.bos_id) == (other.bos_token, other.bos_token_id)
  assert (mine.eos_token, mine.eos_id) == (other.eos_token, other.eos_token_id)
  assert mine.vocab_size == len(other)
  assert dict(mine.named_tokens) == other.special_tokens_map


MESSAGES = [
  {"role": "user", "content": "  Is 2 < 3 & 'ä' \"fine\"?\n", "name": None},
  {"role": "assistant", "content": "yes", "tool_calls": [{"f": "<é>"}]},
  {"role": "user", "content": "<|end|> {{ 7 * 7 }}"},
]


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"add_generation_prompt": False},
    {"thinking": False},
    {"tools": [{"type": "function", "function": {"a": 1}}]},
  ],
)
def test_a_chat_is_rendered_as_by_transformers(setting: str, options: dict[str, Any]):
  expected = theirs(setting).apply_chat_template(MESSAGES, tokenize=False, **{"add_generation_prompt": True, **options})
  found = ours(setting).apply_chat(MESSAGES, **options)
  assert found == expected
  ids = theirs(setting).apply_chat_template(MESSAGES, return_dict=False, **{"add_generation_prompt": True, **options})
  assert ours(setting).encode(found, add_special_tokens=False) == ids


def test_a_template_in_its_own_file_comes_first(tmp_path: Path):
  path = with_files(tmp_path, {"chat_template.jinja": "{{ strftime_now('%Y') | length }}{{ messages | length }}"})
  assert load(path).apply_chat(MESSAGES) == "43"


def test_of_several_templates_the_default_counts(tmp_path: Path):
  templates = [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]
  path = with_files(tmp_path, {"tokenizer_config.json": json.dumps({"chat_template": templates})})
  assert load(path).apply_chat(MESSAGES) == "yes"


def with_files(path: Path, files: dict[str, str]) -> Path:
  (path / "tokenizer.json").write_text((directory("byte_level") / "tokenizer.json").read_text())
  for name, text in files.items():
    (path / name).write_text(text)
  return path


def load(path: Path) -> Tokenizer:
  tokenizer = Tokenizer.from_directory(path)
  assert tokenizer is not None
  return tokenizer


@pytest.mark.parametrize(
  ("messages", "message"),
  [([], "messages is empty"), ([{"role": "system", "content": ""}], "refuses .*no system messages here")],
)
def test_messages_that_cannot_be_rendered_are_an_error(messages: list[dict[str, str]], message: str):
  with pytest.raises(ValueError, match=message):
    ours("byte_level").apply_chat(messages)


@pytest.mark.parametrize(
  "template",
  [
    "{{ messages.append(1) }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ (lambda: 1)() }}",
    "{% for x in messages %}",
    "{{ raise_exception.__globals__['json'] }}",
  ],
)
def test_a_template_that_escapes_or_is_broken_is_an_error(tmp_path: Path, template: str):
  with pytest.raises(ValueError, match="the chat template refuses"):
    load(with_files(tmp_path, {"chat_template.jinja": template})).apply_chat(MESSAGES)


def test_without_a_template_the_error_says_what_to_do(tmp_path: Path):
  tokenizer = load(with_files(tmp_path, {}))
  assert tokenizer.chat_template is None
  with pytest.raises(ValueError, match=r"no chat template .*plain text"):
    tokenizer.apply_chat(MESSAGES)


def test_a_directory_without_a_tokenizer_has_none(tmp_path: Path):
  assert Tokenizer.from_directory(tmp_path) is None


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", [b"{", b"[1, 2]", b"\xff\x00\x01"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes):
  path = with_files(tmp_path, {})
  (path / name).write_bytes(content)
  with pytest.raises(ValueError, match=f"{name} .*: download it again"):
    Tokenizer.from_directory(path)


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"eos_token": 5}, "tokenizer_config.json: eos_token is 5: expected a token, as text or as an object with content"),
    (
      {"added_tokens_decoder": {"x": {"content": "a"}}},
      "added_tokens_decoder is {'x'.*: expected an object whose keys",
    ),
    ({"added_tokens_decoder": [1]}, r"added_tokens_decoder is \[1\]: expected an object whose keys are token ids"),
    ({"added_tokens_decoder": {"7": {"text": "a"}}}, "added_tokens_decoder.7 is {'text'.*: expected a token"),
    ({"added_tokens_decoder": {"7": {"content": "a", "lstrip": "x"}}}, "added_tokens_decoder.7 is .*: expected an"),
    ({"chat_template": {"a": 1}}, "chat_template is {'a': 1}: expected Jinja source"),
    ({"chat_template": [{"name": "default", "template": 3}]}, "chat_template is 3: expected Jinja source"),
    ({"additional_special_tokens": [3]}, "extra_special_tokens is 3: expected a token"),
  ],
)
def test_a_damaged_field_is_named(tmp_path: Path, config: dict[str, Any], message: str):
  path = with_files(tmp_path, {"tokenizer_config.json": json.dumps(config)})
  with pytest.raises(ValueError, match=f"{message}.*; download it again"):
    Tokenizer.from_directory(path)


def test_special_tokens_of_older_checkpoints_are_read(tmp_path: Path):
  special = {"eos_token": {"content": "<|end|>", "lstrip": False}, "bos_token": "<|turn|>"}
  tokenizer = load(with_files(tmp_path, {"special_tokens_map.json": json.dumps(special)}))
  assert (tokenizer.bos_token, tokenizer.eos_id) == ("<|turn|>", 0)


def test_truncation_and_padding_saved_with_a_tokenizer_are_off(tmp_path: Path):
  backend = _byte_level()
  backend.enable_truncation(3)
  backend.enable_padding(length=12)
  backend.save(str(tmp_path / "tokenizer.json"))
  tokenizer = load(tmp_path)
  assert tokenizer.decode(tokenizer.encode(_TEXT[0])) == _TEXT[0]


def test_tokenizers_are_equal_by_content():
  again = load(directory("byte_level"))
  assert again == ours("byte_level")
  assert hash(again) == hash(ours("byte_level"))
  assert ours("byte_level_bos_unset") == ours("byte_level_bare")
  assert len({ours(setting) for setting in SETTINGS}) == len(SETTINGS) - 1


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
def test_a_copy_is_equal_and_works(clone):
  tokenizer = clone(ours("sentencepiece"))
  assert tokenizer == ours("sentencepiece")
  assert tokenizer.encode("the fox") == ours("sentencepiece").encode("the fox")


def test_it_cannot_be_changed():
  with pytest.raises(dataclasses.FrozenInstanceError):
    ours("byte_level").chat_template = "other"  # pyright: ignore[reportAttributeAccessIssue]
  ours("byte_level").named_tokens["eos_token"] = "other"
  assert ours("byte_level").eos_token == "<|end|>"


def test_a_template_is_part_of_what_makes_it_equal(tmp_path: Path):
  plain = load(with_files(tmp_path, {}))
  assert load(with_files(tmp_path, {"chat_template.jinja": "hi"})) != plain


def test_it_says_what_it_is():
  assert repr(ours("byte_level")).startswith(f"Tokenizer(vocab_size={len(theirs('byte_level'))}, fingerprint='")
