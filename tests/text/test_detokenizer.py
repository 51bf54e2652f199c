"""A row's text while it grows: whole characters, cut at stop strings, never taken back."""

from hypothesis import given
from hypothesis import strategies as st

from lynx_jax.text.detokenizer import TextRow


class Bytes:
  """A tokenizer of single bytes: what a token means in text depends on its neighbours."""

  def decode(self, ids):
    return bytes(ids).decode("utf-8", errors="replace")


def grown(text, stops=(), size=1):
  row, pieces = TextRow.__new__(TextRow), []
  row.__init__(None, stops)
  row._tokenizer = Bytes()
  ids = list(text.encode())
  for start in range(0, len(ids), size):
    last = start + size >= len(ids)
    row.extend(ids[start : start + size], "length" if last else None)
    pieces.append(row.take())
    if row.finish_reason:
      break
  return row, pieces


@given(st.text(st.characters(exclude_characters="\ufffd"), min_size=1), st.integers(1, 5))
def test_pieces_join_to_the_text_and_hold_whole_characters(text, size):
  row, pieces = grown(text, size=size)
  assert "".join(pieces) == text == row.text
  assert "\ufffd" not in "".join(pieces)


@given(
  st.text("abc", min_size=1, max_size=30),
  st.lists(st.text("abc", min_size=1, max_size=4), min_size=1),
  st.integers(1, 5),
)
def test_text_ends_before_the_first_stop_string_and_nothing_of_it_is_handed_out(text, stops, size):
  row, pieces = grown(text, tuple(stops), size)
  ends = [text.find(stop) for stop in stops if stop in text]
  assert "".join(pieces) == row.text
  if size == 1:
    # Token by token, the row ends with the first stop string to be whole.
    whole = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=len(text))
    seen = text[:whole]
    assert row.text == seen[: min((seen.find(stop) for stop in stops if stop in seen), default=len(seen))]
  assert row.finish_reason == ("stop" if ends else "length")
