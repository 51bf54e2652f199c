"""Exercises and their documents: solved right, told apart from those of an evaluation, put into words."""

import re

import pytest

from experiments.tiny_corpus import tokenizer
from experiments.tiny_corpus.documents import chat, question_document, task_documents
from experiments.tiny_corpus.sources import Item
from experiments.tiny_corpus.tasks import TASKS, arithmetic_key, evaluation_exercises, exercise


def solve(task: str, request: str) -> str:
  """Answers an exercise from the words of its request alone, as a reader would."""
  numbers = [int(number) for number in re.findall(r"\d+", request)]
  said = re.sub(r"^.*?: |\?$", "", request).split()
  match task:
    case "add":
      return str(sum(numbers))
    case "subtract":
      return str(numbers[0] - numbers[1])
    case "next":
      return str(numbers[0] + 1)
    case "larger":
      return str(max(numbers))
    case "copy":
      return " ".join(said)
    case "reverse":
      return " ".join(said[::-1])
    case "sort":
      return ", ".join(map(str, sorted(numbers)))
    case "list":
      return ", ".join(str(number) for number in range(numbers[0], numbers[1] + 1))
    case "count":
      return str(said.count(request.split()[1].rstrip(":")))
    case "repeat":
      return " ".join([request.split()[1]] * numbers[0])
    case "last":
      return said[0] if "first word" in request else said[-1]
    case "recall":
      owned = dict(re.findall(r"(\w+) has (the \w+ \w+)\.", request))
      return owned[re.findall(r"does (\w+) have", request)[0]]
  raise AssertionError(f"no solver of {task}")


@pytest.mark.parametrize("task", TASKS)
class TestTasks:
  def test_answers_are_right(self, task):
    for seed in range(300):
      made = exercise(task, seed, held_out=seed % 10 == 0)
      assert made.task == task
      assert made.answer == solve(task, made.request)
      assert made.text == f"{made.prompt} {made.answer}"
      assert made.request in made.prompt
      assert "\n" not in made.text

  def test_an_exercise_is_a_pure_function_of_its_seed(self, task):
    made = [exercise(task, seed) for seed in range(50)]
    assert made == [exercise(task, seed) for seed in reversed(range(50))][::-1]
    assert len({one.key for one in made}) > 25

  def test_no_held_out_exercise_is_trained_on(self, task):
    trained = {exercise(task, seed).key for seed in range(2000)}
    evaluated = evaluation_exercises(task, 60)
    assert trained.isdisjoint(one.key for one in evaluated)
    assert all(one.held_out for one in evaluated)
    assert len({one.key for one in evaluated}) == len(evaluated) > 15


class TestTaskDocuments:
  def test_a_sum_is_one_exercise_in_either_order_but_a_difference_is_not(self):
    assert arithmetic_key(17, "+", 25) == arithmetic_key(25, "+", 17)
    assert arithmetic_key(25, "-", 17) != arithmetic_key(17, "-", 25)

  def test_reserved_keys_are_not_drawn_for_training(self):
    reserved = {exercise("add", seed).key for seed in range(500)}
    assert reserved.isdisjoint(exercise("add", seed, reserved=reserved).key for seed in range(200))

  def test_documents_are_deterministic_and_differ_between_seeds_and_splits(self):
    made = task_documents(100, 3)
    assert made == task_documents(100, 3)
    assert made != task_documents(100, 4)
    assert set(made).isdisjoint(task_documents(100, 3, held_out=True))
    assert {document.source for document in made} == {f"task {name}" for name in TASKS}

  def test_a_line_is_a_solved_exercise_and_some_documents_are_chat(self):
    documents = task_documents(200, 0)
    chats = [document.text for document in documents if tokenizer.USER in document.text]
    assert 0 < len(chats) < 100
    assert all(text.startswith(tokenizer.USER) and text.endswith(tokenizer.END) for text in chats)
    sums = re.findall(r"^Q: What is (\d+) \+ (\d+)\? A: (\d+)$", "\n".join(d.text for d in documents), re.M)
    assert sums
    assert all(int(a) + int(b) == int(c) for a, b, c in sums)


def test_each_source_is_put_into_words():
  def text(source: str, question: str, answer: str, context: str = "") -> str:
    return question_document(Item(source=source, context=context, question=question, answer=answer)).text

  assert text("winogrande", "Ann thanked Sue as _ helped.", "Ann thanked Sue as Sue helped.").endswith("Sue helped.")
  assert text("hellaswag", "He stops. Then", ", he goes.") == "He stops. Then, he goes."
  assert text("hellaswag", "He stops. Then he", "goes.") == "He stops. Then he goes."
  forms_of_text = {text("socialiqa", f"Why did Ann go {n}?", "to rest", "Ann went.") for n in range(20)}
  assert "Question: Ann went. Why did Ann go 0?\nAnswer: to rest" in forms_of_text
  assert chat("Ann went.\nWhy did Ann go 1?", "to rest") in forms_of_text
  passages = [text("boolq", f"is it {n}?", "yes", "It -- It is.") for n in range(20)]
  assert any(passage.startswith("It -- It is.\nQuestion: is it") for passage in passages)
  assert any(text("piqa", f"dry {n} cups", "Wait.").startswith("Goal: dry") for n in range(20))
