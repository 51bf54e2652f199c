"""Evaluation files: text, questions with choices, and exercises, as anyone can write them.

A text file is one document, of the domain that its name is. The others are JSON Lines:

    {"source": "stories", "text": "..."}
    {"source": "arc_easy", "choices": [["Question: ... Answer:", " an oak"], ["Question: ...", " a crow"]], "gold": 0}
    {"source": "sums", "prompt": "Q: 12 + 30 A:", "answer": "42"}
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from lynx_jax.evals.choices import Question
from lynx_jax.evals.exercises import Exercise
from lynx_jax.models.params import Params


def read_texts(paths: Sequence[Path]) -> dict[str, list[str]]:
  """Documents by domain, from .txt and .jsonl files.

  Raises:
    ValueError: a line is not an object with the fields that it needs; names file and line.
  """
  domains: dict[str, list[str]] = {}
  for path in paths:
    if path.suffix == ".jsonl":
      for where, record in _records(path):
        domains.setdefault(_field(record, "source", str, where), []).append(_field(record, "text", str, where))
    else:
      domains.setdefault(path.stem, []).append(_text(path))
  return domains


def read_questions(paths: Sequence[Path], limit: int | None = None) -> list[Question]:
  """Reads questions with choices, the first `limit` of each source; ValueError names file and line."""
  questions = []
  for path in paths:
    for where, record in _records(path):
      choices, source, gold = (
        _field(record, name, kind, where) for name, kind in (("choices", list), ("source", str), ("gold", int))
      )
      if not all(isinstance(one, list) and len(one) == 2 and all(isinstance(x, str) for x in one) for one in choices):
        raise ValueError(f"{where}: choices must be pairs of texts, a context and a continuation")
      try:
        questions.append(Question(source=source, choices=tuple((c, t) for c, t in choices), gold=gold))
      except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
  return _first(questions, limit)


def read_exercises(paths: Sequence[Path], limit: int | None = None) -> list[Exercise]:
  """Reads exercises, the first `limit` of each source; ValueError names file and line."""
  return _first(
    [
      Exercise(**{name: _field(record, name, str, where) for name in ("source", "prompt", "answer")})
      for path in paths
      for where, record in _records(path)
    ],
    limit,
  )


def token_streams(params: Params, domains: dict[str, list[str]]) -> dict[str, Int32[np.ndarray, "_"]]:
  """Each domain's documents as one stream of tokens, a stop token (where the model has one) before each.

  Raises:
    ValueError: the model has no tokenizer.
  """
  if params.tokenizer is None:
    raise ValueError("this checkpoint has no tokenizer: give token ids to `lynx_jax.evals` from Python")
  encode, stop = params.tokenizer.encode, list(params.spec.stop_ids[:1])
  return {
    domain: np.array([token for text in texts for token in stop + encode(text)], np.int32)
    for domain, texts in domains.items()
  }


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Each record with its place in the file, for messages; ValueError if the file has no record."""
  lines = [(number, line) for number, line in enumerate(_text(path).splitlines(), start=1) if line.strip()]
  if not lines:
    raise ValueError(f"{path} holds no record: write one JSON object a line")
  for number, line in lines:
    where = f"{path}, line {number}"
    try:
      record = json.loads(line)
    except json.JSONDecodeError as error:
      raise ValueError(f"{where} is not JSON ({error.msg}): write one object a line") from error
    if not isinstance(record, dict):
      raise ValueError(f"{where} is {type(record).__name__}, not an object")
    yield where, record


def _text(path: Path) -> str:
  """A file's text; ValueError, naming the file, where it is not UTF-8."""
  data = path.read_bytes()
  try:
    return data.decode("utf-8")
  except UnicodeDecodeError as error:
    where = f"byte {error.start} is {data[error.start]:#04x}"
    raise ValueError(f"{path} is not UTF-8 text ({where}): save it as UTF-8") from error


def _field(record: dict[str, Any], name: str, kind: type, where: str) -> Any:
  value = record.get(name)
  if not isinstance(value, kind) or isinstance(value, bool):
    raise ValueError(f"{where}: {name!r} is {value!r}, expected {kind.__name__}")
  return value


def _first(records: list, limit: int | None) -> list:
  """The first `limit` records of each source."""
  if limit is None:
    return records
  counts: dict[str, int] = {}
  kept = []
  for record in records:
    counts[record.source] = counts.get(record.source, 0) + 1
    if counts[record.source] <= limit:
      kept.append(record)
  return kept
