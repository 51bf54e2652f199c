"""The text of an output while it grows: pieces join to what `decode` gives, and characters are whole."""

import functools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lynx_jax
from lynx_jax.text.detokenizer import ByteStream, WindowStream, text_stream
from lynx_jax.text.tokenizer import Tokenizer
from tests.text import test_chat, test_tokenizer

EMBEDDED = Path(lynx_jax.__file__).parent / "embedded"
TRAINED = ("byte_level", "byte_level_more_tokens", "sentencepiece")
TOKENIZERS = ("embedded", *TRAINED, *test_chat.MODELS)


class Bytes:
  """A tokenizer of single bytes: what a token means in text depends on its neighbours."""

  open_ids = frozenset()

  def __init__(self):
    self.decoded = 0

  def decode(self, ids):
    self.decoded += len(ids)
    return bytes(ids).decode("utf-8", errors="replace")


@functools.cache
def tokenizer_of(name: str, directory: Path) -> Tokenizer:
  if name in test_chat.MODELS:
    test_chat.MODELS[name](directory)
  found = test_tokenizer.ours(name) if name in TRAINED else Tokenizer.from_directory(
    EMBEDDED if name == "embedded" else directory
  )  # fmt: skip
  assert found is not None
  return found


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
  return tokenizer_of(request.param, tmp_path_factory.mktemp(request.param))


def grown(stream, ids):
  """The pieces of a stream that gets `ids`."""
  return [stream.feed(token, last=at == len(ids)) for at, token in enumerate(ids, 1)]


def ids_of(data, tokenizer, size=40):
  """Random ids, or a text's with random ids between: mostly text, some of it broken."""
  anything = st.integers(0, tokenizer.vocab_size - 1)
  short = st.sampled_from(sorted(tokenizer.open_ids)) if tokenizer.open_ids else anything
  word = st.text(min_size=1, max_size=6).map(lambda text: tokenizer.encode(text, add_special_tokens=False))
  parts = data.draw(st.lists(word | anything.map(lambda one: [one]) | short.map(lambda one: [one]), max_size=size))
  return [token for part in parts for token in part]


@given(data=st.data())
@settings(max_examples=60)
def test_pieces_join_to_what_decode_gives(tokenizer, data):
  ids = ids_of(data, tokenizer)
  assert "".join(grown(text_stream(tokenizer), ids)) == tokenizer.decode(ids)


@given(data=st.data())
@settings(max_examples=60)
def test_a_window_gives_what_decode_gives_for_every_tokenizer(tokenizer, data):
  ids = ids_of(data, tokenizer)
  assert "".join(grown(WindowStream(tokenizer), ids)) == tokenizer.decode(ids)


@given(data=st.data())
@settings(max_examples=40)
def test_special_tokens_can_be_shown(tokenizer, data):
  specials = sorted(tokenizer.special_ids)
  decoder = tokenizer.showing(data.draw(st.sets(st.sampled_from(specials)).map(frozenset)) if specials else frozenset())
  ids = ids_of(data, tokenizer)
  ids += data.draw(st.lists(st.sampled_from(specials), max_size=3)) if specials else []
  assert "".join(grown(text_stream(decoder), ids)) == decoder.decode(ids)


def test_byte_level_tokens_are_looked_up_and_others_are_not(tokenizer):
  kind = json.loads(tokenizer.to_json())["decoder"]["type"]
  assert isinstance(text_stream(tokenizer), ByteStream if kind == "ByteLevel" else WindowStream)


@given(ids=st.lists(st.integers(0, 255), max_size=12))
def test_bytes_that_are_no_characters_come_out_as_decode_has_them(ids):
  table = {byte: bytes([byte]) for byte in range(256)}
  expected = Bytes().decode(ids)
  assert "".join(grown(ByteStream(table), ids)) == "".join(grown(WindowStream(Bytes()), ids)) == expected


@given(st.text(st.characters(exclude_characters="\ufffd"), min_size=1))
def test_pieces_hold_whole_characters(text):
  ids = list(text.encode())
  for stream in (WindowStream(Bytes()), ByteStream({byte: bytes([byte]) for byte in range(256)})):
    pieces = grown(stream, ids)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_a_token_costs_the_same_at_the_end_of_a_long_output():
  tokenizer = Bytes()
  ids = list(("Zürich, naïve café. " * 100).encode())
  pieces = grown(WindowStream(tokenizer), ids)
  assert "".join(pieces) == Bytes().decode(ids)
  assert tokenizer.decoded < 12 * len(ids)
