"""Exercises that a tiny model masters, so that what a routing policy costs shows in its accuracy.

An exercise is a request with one right answer. One in `HELD_OUT_EVERY`, by a hash of what is asked, is never
trained on: `evaluation_exercises` draws from those.
"""

import dataclasses
import random
from collections.abc import Callable, Container, Iterable

from experiments.tiny_corpus.hashing import one_in

HELD_OUT_EVERY = 20

# fmt: off
COLOURS = [
  "red", "blue", "green", "yellow", "black", "white", "brown", "pink", "purple", "orange", "grey", "gold",
]
ANIMALS = [
  "cat", "dog", "cow", "pig", "hen", "fox", "bear", "lion", "wolf", "frog", "fish", "bird", "horse",
  "sheep", "goat", "duck", "mouse", "bee",
]
FRUITS = [
  "apple", "pear", "plum", "fig", "lemon", "lime", "grape", "peach", "melon", "cherry", "mango", "banana",
]
THINGS = [
  "cup", "book", "key", "hat", "shoe", "ball", "box", "pen", "lamp", "chair", "spoon", "coin", "bag", "map",
  "drum", "kite",
]
NAMES = [
  "Tom", "Ann", "Ben", "Sue", "Max", "Eva", "Sam", "Amy", "Dan", "Lily", "Jack", "Rose", "Paul", "Kate",
  "Fred", "Jane",
]
# fmt: on
WORDS = COLOURS + ANIMALS + FRUITS + THINGS

QUESTION, ARROW, COLON = "Q: {} A:", "{} ->", "{}:"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
  """What is asked and the right answer.

  Attributes:
    task: the key of `TASKS` that made it.
    request: what is asked, as a user would type it.
    answer: the one right answer.
    key: equal for exercises that give each other away, such as a sum in either order.
    form: where the request stands in the prompt.
  """

  task: str
  request: str
  answer: str
  key: str
  form: str

  @property
  def prompt(self) -> str:
    """The text before the answer, without the space between them."""
    return self.form.format(self.request)

  @property
  def text(self) -> str:
    """The exercise solved, on one line."""
    return f"{self.prompt} {self.answer}"

  @property
  def held_out(self) -> bool:
    """Whether it is for evaluation only."""
    return one_in(HELD_OUT_EVERY, f"{self.task} {self.key}")


def exercise(task: str, seed: int, *, held_out: bool = False, reserved: Container[str] = ()) -> Exercise:
  """One exercise, a pure function of its arguments.

  Args:
    task: a key of `TASKS`.
    seed: which exercise.
    held_out: whether it is for evaluation; those and the others share no key.
    reserved: keys that other benchmarks ask, never drawn for training.
  """
  draw = random.Random(f"{task} {seed}")
  while True:
    drawn = TASKS[task](draw)
    if drawn.held_out == held_out and (held_out or drawn.key not in reserved):
      return drawn


def evaluation_exercises(task: str, count: int) -> list[Exercise]:
  """Up to `count` exercises that were never trained on, no two with the same key, always the same ones.

  Small tasks hold out fewer than a hundred; of those, all that turn up in 20 draws for each wanted.
  """
  found: dict[str, Exercise] = {}
  for seed in range(20 * count):
    if len(found) == count:
      break
    drawn = exercise(task, seed, held_out=True)
    found.setdefault(drawn.key, drawn)
  return list(found.values())


def arithmetic_key(a: int, operator: str, b: int) -> str:
  """The key of `a operator b`; the order of a sum does not matter."""
  first, second = sorted((a, b)) if operator == "+" else (a, b)
  return f"{first} {operator} {second}"


def _made(task: str, form: str, request: str, answer: str, key: str | None = None) -> Exercise:
  return Exercise(task=task, form=form, request=request, answer=answer, key=request if key is None else key)


def _add(draw: random.Random) -> Exercise:
  a, b = (draw.randrange(draw.choice((10, 100))) for _ in range(2))
  return _made("add", QUESTION, f"What is {a} + {b}?", str(a + b), arithmetic_key(a, "+", b))


def _subtract(draw: random.Random) -> Exercise:
  b, a = sorted(draw.randrange(draw.choice((10, 100))) for _ in range(2))
  return _made("subtract", QUESTION, f"What is {a} - {b}?", str(a - b), arithmetic_key(a, "-", b))


def _next(draw: random.Random) -> Exercise:
  a = draw.randrange(1, 1000)
  return _made("next", QUESTION, f"What number comes after {a}?", str(a + 1))


def _larger(draw: random.Random) -> Exercise:
  a, b = draw.sample(range(1, 1000), 2)
  low, high = sorted((a, b))
  return _made("larger", QUESTION, f"Which is larger, {a} or {b}?", str(high), f"{low} {high}")


def _copy(draw: random.Random) -> Exercise:
  chosen = " ".join(draw.choices(WORDS, k=draw.randint(3, 8)))
  return _made("copy", ARROW, f"Copy: {chosen}", chosen)


def _reverse(draw: random.Random) -> Exercise:
  chosen = draw.choices(WORDS, k=draw.randint(3, 6))
  return _made("reverse", ARROW, f"Reverse: {' '.join(chosen)}", " ".join(reversed(chosen)))


def _sort(draw: random.Random) -> Exercise:
  chosen = draw.sample(range(100), draw.randint(3, 5))
  return _made("sort", ARROW, f"Sort: {_listed(chosen)}", _listed(sorted(chosen)))


def _list(draw: random.Random) -> Exercise:
  first = draw.randrange(0, 200)
  last = first + draw.randint(3, 9)
  return _made("list", COLON, f"List the numbers from {first} to {last}", _listed(range(first, last + 1)))


def _count(draw: random.Random) -> Exercise:
  kinds = draw.sample(WORDS, 3)
  chosen = draw.choices(kinds, k=draw.randint(3, 8))
  return _made("count", ARROW, f"Count {kinds[0]}: {' '.join(chosen)}", str(chosen.count(kinds[0])))


def _repeat(draw: random.Random) -> Exercise:
  word, times = draw.choice(WORDS), draw.randint(2, 9)
  return _made("repeat", COLON, f"Say {word} {times} times", " ".join([word] * times))


def _last(draw: random.Random) -> Exercise:
  chosen = draw.sample(WORDS, draw.randint(3, 6))
  which, answer = draw.choice((("first", chosen[0]), ("last", chosen[-1])))
  return _made("last", QUESTION, f"What is the {which} word of: {' '.join(chosen)}?", answer)


def _recall(draw: random.Random) -> Exercise:
  names = draw.sample(NAMES, draw.randint(2, 4))
  owned = {name: draw.choice(COLOURS) + " " + draw.choice(THINGS) for name in names}
  asked = draw.choice(names)
  facts = " ".join(f"{name} has the {thing}." for name, thing in owned.items())
  return _made("recall", QUESTION, f"{facts} What does {asked} have?", f"the {owned[asked]}")


def _listed(numbers: Iterable[int]) -> str:
  return ", ".join(map(str, numbers))


TASKS: dict[str, Callable[[random.Random], Exercise]] = {
  "add": _add,
  "subtract": _subtract,
  "next": _next,
  "larger": _larger,
  "copy": _copy,
  "reverse": _reverse,
  "sort": _sort,
  "list": _list,
  "count": _count,
  "repeat": _repeat,
  "last": _last,
  "recall": _recall,
}
