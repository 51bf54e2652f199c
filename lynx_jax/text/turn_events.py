"""What an assistant's turn is made of."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from lynx_jax.text.tool_calls import Call


class Content(NamedTuple):
  """Text of the answer."""

  text: str


class Reasoning(NamedTuple):
  """Text of what the model thinks."""

  text: str


Event: TypeAlias = Content | Reasoning | Call


@runtime_checkable
class TurnParser(Protocol):
  """Takes a turn apart."""

  def feed(self, text: str) -> list[Event]:
    """What is certain once this text has come."""
    ...

  def end(self) -> list[Event]:
    """What was held back, once no more text comes."""
    ...


def joined(events: Sequence[Event]) -> list[Event]:
  """The same with neighbours of one kind as one, and without empty text."""
  found: list[Event] = []
  for event in events:
    last = found[-1] if found else None
    if not isinstance(event, Call) and type(event) is type(last):
      assert isinstance(last, Content | Reasoning)
      found[-1] = last._replace(text=last.text + event.text)
    elif isinstance(event, Call) or event.text:
      found.append(event)
  return found


def open_end(text: str, marks: Sequence[str]) -> int:
  """Characters at the end of `text` with which one of `marks` may begin."""
  longest = max((len(mark) for mark in marks), default=1) - 1
  for size in range(min(longest, len(text)), 0, -1):
    end = text[len(text) - size :]
    if any(mark.startswith(end) and len(mark) > size for mark in marks):
      return size
  return 0


def first_mark(text: str, marks: Sequence[str], start: int = 0) -> tuple[int, str] | None:
  """Place and name of the first of `marks` in `text` from `start` on; of two at one place, the longer."""
  found = [(at, -len(mark), mark) for mark in marks if (at := text.find(mark, start)) >= 0]
  if not found:
    return None
  at, _, mark = min(found)
  return at, mark
