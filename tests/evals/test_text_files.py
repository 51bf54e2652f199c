"""Evaluation files: what is read, and what is said of a wrong one."""

import json

import pytest

import lynx_jax
from lynx_jax.evals import read_exercises, read_questions, read_texts, token_streams
from tests.small_models import small_params


def lines(path, *records):
  path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records))
  return path


def test_texts_of_both_kinds(tmp_path):
  (tmp_path / "stories.txt").write_text("Once.\n")
  more = lines(tmp_path / "more.jsonl", {"source": "a", "text": "x"}, "", {"source": "stories", "text": "y"})
  assert read_texts([tmp_path / "stories.txt", more]) == {"stories": ["Once.\n", "y"], "a": ["x"]}


def test_a_limit_counts_by_source(tmp_path):
  questions = [{"source": s, "choices": [["q", "a"], ["q", "b"]], "gold": 1} for s in "aabab"]
  assert [one.source for one in read_questions([lines(tmp_path / "q.jsonl", *questions)], 2)] == ["a", "a", "b", "b"]
  exercises = [{"source": s, "prompt": "p", "answer": "a"} for s in "aab"]
  assert [one.source for one in read_exercises([lines(tmp_path / "e.jsonl", *exercises)], 1)] == ["a", "b"]


@pytest.mark.parametrize(
  ("record", "message"),
  [
    ("{", "line 2 is not JSON"),
    ([1], "line 2 is list, not an object"),
    ({"source": "a", "choices": [["q", "a"]], "gold": 0}, r"line 2: gold is 0 of 1 choices"),
    ({"source": "a", "choices": ["q", "a"], "gold": 0}, "line 2: choices must be pairs of texts"),
    ({"source": "a", "choices": [["q", "a"], ["q", "b"]], "gold": "0"}, "line 2: 'gold' is '0', expected int"),
    ({"choices": [["q", "a"], ["q", "b"]], "gold": 0}, "line 2: 'source' is None, expected str"),
  ],
)
def test_errors_name_the_line(tmp_path, record, message):
  good = {"source": "a", "choices": [["q", "a"], ["q", "b"]], "gold": 1}
  with pytest.raises(ValueError, match=message):
    read_questions([lines(tmp_path / "q.jsonl", good, record)])


def test_documents_are_set_apart_by_the_stop_token():
  params = lynx_jax.load()
  assert params.tokenizer is not None
  stream = token_streams(params, {"a": ["One.", "Two."]})["a"].tolist()
  stop = params.spec.stop_ids[0]
  assert stream == [stop, *params.tokenizer.encode("One."), stop, *params.tokenizer.encode("Two.")]
  with pytest.raises(ValueError, match="no tokenizer"):
    token_streams(small_params(), {"a": ["x"]})
