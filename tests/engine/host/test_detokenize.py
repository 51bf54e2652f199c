"""Text comes in pieces that join to the whole, without anything of a stop string."""

from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from lynx_jax.engine.host.detokenize import OutputText, StopStrings
from tests.text.test_detokenizer import Bytes, tokenizer_of

PIECES = st.lists(st.text("abc", max_size=4), max_size=12)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4)


def first_stop(text: str, stops: list[str]) -> str | None:
  """The text before the stop string that is complete first, the longest of several; None if there is none."""
  for end in range(1, len(text) + 1):
    found = [stop for stop in stops if text.endswith(stop, 0, end)]
    if found:
      return text[: end - max(map(len, found))]
  return None


@given(PIECES, STOPS)
def test_stop_strings_are_found_however_text_is_cut(pieces: list[str], stops: list[str]):
  automaton, released, whole = StopStrings(stops), "", ""
  for piece in pieces:
    whole += piece
    text, stopped = automaton.feed(piece)
    released += text
    expected = first_stop(whole, stops)
    assert stopped == (expected is not None)
    if expected is not None:
      assert released == expected
      return
    held = max((size for stop in stops for size in range(1, len(stop)) if whole.endswith(stop[:size])), default=0)
    assert released == whole[: len(whole) - held]
  assert released + automaton.rest() == whole


def feed_all(stream: OutputText, ids: list[int]) -> tuple[list[str], int]:
  """The pieces of a request's text, and how many of its tokens were fed."""
  pieces = []
  for index, token in enumerate(ids):
    text, stopped = stream.feed(token, last=index == len(ids) - 1)
    pieces.append(text)
    if stopped:
      break
  return pieces, len(pieces)


@given(st.text(max_size=20), STOPS)
@settings(max_examples=100)
def test_bytes_join_to_whole_characters_before_the_stop_string(text: str, stops: list[str]):
  ids = list(f"{text}é{text}abc".encode())
  pieces, fed = feed_all(OutputText(Bytes(), stops), ids)
  expected = first_stop(bytes(ids).decode(), stops)
  assert "".join(pieces) == (bytes(ids).decode() if expected is None else expected)
  assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text
  if expected is not None:
    # The last token is the one that completes the stop string.
    assert first_stop(bytes(ids[:fed]).decode(), stops) is not None
    assert first_stop(bytes(ids[: fed - 1]).decode(errors="ignore"), stops) is None


def test_pieces_of_a_trained_tokenizer_join_to_what_it_decodes(tmp_path: Path):
  tokenizer = tokenizer_of("embedded", tmp_path)
  ids = tokenizer.encode("Once upon a time, a naïve 猫 went — to sea. 🙂 The end.")
  pieces, _ = feed_all(OutputText(tokenizer), ids)
  assert "".join(pieces) == tokenizer.decode(ids)
  pieces, fed = feed_all(OutputText(tokenizer, ("to sea",)), ids)
  assert "".join(pieces) == tokenizer.decode(ids).partition("to sea")[0]
  assert fed < len(ids)
