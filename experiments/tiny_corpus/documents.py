"""Documents as the model reads them: prose, questions with answers, exercises, and turns of chat."""

import dataclasses
import random
from collections.abc import Container

from experiments.tiny_corpus.hashing import one_in
from experiments.tiny_corpus.sources import Item
from experiments.tiny_corpus.tasks import TASKS, exercise
from experiments.tiny_corpus.tokenizer import ASSISTANT, END, USER

CHAT_QUESTIONS_EVERY = 3
CHAT_EXERCISES_EVERY = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
  """A text, and the question set or task that it is from."""

  source: str
  text: str


def question_document(item: Item) -> Document:
  """The document of an item; which form it takes depends on the item alone, so on no order and no seed."""
  if item.source == "winogrande":
    text = item.answer
  elif item.source == "hellaswag":
    text = _continued(item.question, item.answer)
  elif one_in(CHAT_QUESTIONS_EVERY, item.context + item.question):
    text = chat(f"{item.context}\n{item.question}".strip(), item.answer)
  else:
    label = "Goal" if item.source == "piqa" else "Question"
    asked = f"{label}: {item.question}"
    if item.source == "boolq":
      asked = f"{item.context}\n{asked}"
    elif item.context:
      asked = f"{label}: {item.context} {item.question}"
    text = f"{asked}\nAnswer: {item.answer}"
  return Document(item.source, text)


def forms(item: Item) -> list[str]:
  """What stands for an item in comparisons: what it asks, and that with its answer, bare of labels."""
  asked = f"{item.context} {item.question}"
  return [asked, item.answer if item.source == "winogrande" else f"{asked} {item.answer}"]


def task_documents(count: int, seed: int, *, held_out: bool = False, reserved: Container[str] = ()) -> list[Document]:
  """Documents of one to four exercises of a task, one per line; some are an exercise as a turn of chat.

  `held_out` and `reserved` are those of `tasks.exercise`.
  """
  draw = random.Random(f"documents {seed} {held_out}")
  names, documents = list(TASKS), []
  for index in range(count):
    turn, which = divmod(index, len(names))
    made = [
      exercise(names[which], draw.getrandbits(48), held_out=held_out, reserved=reserved)
      for _ in range(draw.randint(1, 4))
    ]
    if turn % CHAT_EXERCISES_EVERY == 0:
      text = chat(made[0].request, made[0].answer)
    else:
      text = "\n".join(one.text for one in made)
    documents.append(Document(f"task {names[which]}", text))
  return documents


def chat(request: str, answer: str) -> str:
  """One exchange, as the tokenizer's chat template writes it."""
  return f"{USER}{request}{END}{ASSISTANT}{answer}{END}"


def _continued(question: str, answer: str) -> str:
  """A question that its answer continues in mid-sentence; some answers open with punctuation."""
  space = "" if answer.startswith((",", ".", ";", ":", "'")) else " "
  return f"{question}{space}{answer}"
