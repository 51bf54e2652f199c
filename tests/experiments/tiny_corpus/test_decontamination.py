"""Training text that overlaps an evaluation set is found, on texts that the tests make up."""

import string

from hypothesis import given
from hypothesis import strategies as st

from experiments.tiny_corpus.decontaminate import SHORTEST, Evaluations, Match, N, words

# Words that no two of which are equal make the overlaps of a test the ones it puts there.
word = st.text(string.ascii_lowercase, min_size=1, max_size=6)


def unlike_words(least: int, most: int) -> st.SearchStrategy[list[str]]:
  return st.lists(word, min_size=least, max_size=most, unique=True)


class TestDecontamination:
  @given(unlike_words(SHORTEST, 30))
  def test_the_same_text_is_exact_whatever_its_case_and_punctuation(self, text):
    found = Evaluations([("set", " ".join(text))])
    assert found.match(["something else", ", ".join(text).upper() + "!"]) == Match("exact", "set")

  @given(unlike_words(N, 40), st.data())
  def test_any_thirteen_words_in_a_row_are_found_anywhere(self, text, data):
    start = data.draw(st.integers(0, len(text) - N))
    before, after = (data.draw(st.lists(st.text(string.digits, min_size=1), max_size=9)) for _ in range(2))
    document = before + text[start : start + N] + after
    match = Evaluations([("other", "1 2 3"), ("set", " ".join(text))]).match([" ".join(document)])
    assert match is not None
    assert match.owner == "set"
    assert match.kind == "ngram" or document == text

  @given(unlike_words(2 * N, 40), st.integers(1, N - 1))
  def test_twelve_words_in_a_row_are_kept(self, text, shared):
    assert N == 13
    kept = [*text[:shared], "0", *text[N : N + shared], "1"]
    assert Evaluations([("set", " ".join(text))]).match([" ".join(kept)]) is None

  @given(unlike_words(1, 30))
  def test_the_same_words_in_another_order_are_kept(self, text):
    match = Evaluations([("set", " ".join(text))]).match([" ".join(reversed(text))])
    assert match is None or len(text) < 2

  def test_short_answers_are_no_overlap(self):
    found = Evaluations([("set", "a knife"), ("set", ""), ("set", "?!")])
    assert found.match(["A knife.", "", "..."]) is None

  def test_nothing_overlaps_no_evaluations(self):
    assert Evaluations([]).match([" ".join(map(str, range(50)))]) is None

  def test_the_first_owner_of_a_text_is_named(self):
    found = Evaluations([("first", "one two three"), ("second", "One, two, three!")])
    assert found.match(["one two three"]) == Match("exact", "first")

  def test_words_are_bare(self):
    assert words("The _ can't Straße—2!") == ["the", "can", "t", "strasse", "2"]
