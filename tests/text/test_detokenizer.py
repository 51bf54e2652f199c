"""A row's text while it grows: pieces join to what `decode` gives, characters are whole, stop strings are exact."""

import functools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lynx_jax
from lynx_jax.text.detokenizer import TextRow
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


def grown(tokenizer, ids, stops=(), sizes=(1,)):
  """A row that got `ids` in portions of `sizes`, by turns, and its pieces."""
  row, pieces, at, turn = TextRow(tokenizer, stops), [], 0, 0
  while at < len(ids) and row.finish_reason is None:
    portion = ids[at : at + sizes[turn % len(sizes)]]
    at, turn = at + len(portion), turn + 1
    row.extend(portion, "length" if at == len(ids) else None)
    pieces.append(row.take())
  return row, pieces


def ids_of(data, tokenizer, size=40):
  """Random ids, or a text's with random ids between: mostly text, some of it broken."""
  anything = st.integers(0, tokenizer.vocab_size - 1)
  short = st.sampled_from(sorted(tokenizer.open_ids)) if tokenizer.open_ids else anything
  word = st.text(min_size=1, max_size=6).map(lambda text: tokenizer.encode(text, add_special_tokens=False))
  parts = data.draw(st.lists(word | anything.map(lambda one: [one]) | short.map(lambda one: [one]), max_size=size))
  return [token for part in parts for token in part]


@given(data=st.data(), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3))
@settings(max_examples=60)
def test_pieces_join_to_what_decode_gives(tokenizer, data, sizes):
  ids = ids_of(data, tokenizer)
  row, pieces = grown(tokenizer, ids, sizes=sizes)
  assert "".join(pieces) == row.text == tokenizer.decode(ids)


@given(data=st.data())
@settings(max_examples=40)
def test_a_row_ends_at_the_first_token_whose_text_holds_a_stop_string(tokenizer, data):
  ids = ids_of(data, tokenizer)
  text = tokenizer.decode(ids)
  at = data.draw(st.integers(0, max(len(text) - 1, 0)))
  stop = text[at : at + data.draw(st.integers(1, 5))] or "x"
  row, pieces = grown(tokenizer, ids, (stop,))
  ends = (size for size in range(1, len(ids) + 1) if stop in tokenizer.decode(ids[:size]))
  size = next(ends, len(ids))
  expected = tokenizer.decode(ids[:size])
  assert row.token_ids == ids[:size]
  assert "".join(pieces) == row.text == expected.split(stop)[0]
  if ids:
    assert row.finish_reason == ("stop" if stop in expected else "length")


@given(st.text(st.characters(exclude_characters="\ufffd"), min_size=1), st.integers(1, 5))
def test_pieces_hold_whole_characters(text, size):
  row, pieces = grown(Bytes(), list(text.encode()), sizes=(size,))
  assert "".join(pieces) == text == row.text
  assert "\ufffd" not in "".join(pieces)


@given(
  st.text("abc", min_size=1, max_size=30),
  st.lists(st.text("abc", min_size=1, max_size=4), min_size=1),
  st.integers(1, 5),
)
def test_text_ends_before_the_first_stop_string_and_nothing_of_it_is_handed_out(text, stops, size):
  row, pieces = grown(Bytes(), list(text.encode()), tuple(stops), (size,))
  ends = [text.find(stop) for stop in stops if stop in text]
  assert "".join(pieces) == row.text
  if size == 1:
    # Token by token, the row ends with the first stop string to be whole.
    whole = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=len(text))
    seen = text[:whole]
    assert row.text == seen[: min((seen.find(stop) for stop in stops if stop in seen), default=len(seen))]
  assert row.finish_reason == ("stop" if ends else "length")


def test_a_token_costs_the_same_at_the_end_of_a_long_row():
  tokenizer = Bytes()
  ids = list(("Zürich, naïve café. " * 100).encode())
  row, _ = grown(tokenizer, ids)
  assert row.text == tokenizer.decode(ids)
  assert tokenizer.decoded < 12 * len(ids)
