"""An assistant's turn as chats show it: content, reasoning and calls of tools, whole or as deltas."""

import secrets
import string
from collections.abc import Sequence

from msgspec import UNSET

from lynx_jax.serve.exchange import Growth
from lynx_jax.serve.tool_use import ToolUse
from lynx_jax.serve.wire import CallDelta, ChatMessage, Delta, FunctionCall, ToolCall
from lynx_jax.text.tool_calls import Call
from lynx_jax.text.turn_events import Content, Event, Reasoning
from lynx_jax.text.turn_formats import TurnFormat
from lynx_jax.text.turn_parser import turn_parser

_LETTERS = string.ascii_letters + string.digits


class Turn:
  """One choice of a chat while it grows."""

  def __init__(self, form: TurnFormat, use: ToolUse, prompt: str):
    """A turn that goes on from `prompt`."""
    self._parser = turn_parser(form, use.tools, prompt)
    self._short_ids = form.tools is not None and form.tools.short_ids
    self._calls = 0

  def message(self, grown: Growth) -> ChatMessage:
    """The whole turn."""
    events = self._events(grown)
    content, reasoning = _text(events, Content), _text(events, Reasoning)
    calls = [ToolCall(self._new_id(), FunctionCall(*call)) for call in self._taken(events)]
    # OpenAI's null stands for a turn that is calls alone.
    return ChatMessage(
      content if content or not calls else None,
      reasoning_content=reasoning or UNSET,
      tool_calls=calls or UNSET,
    )

  def delta(self, grown: Growth) -> Delta:
    """What came of it."""
    events = self._events(grown)
    first = self._calls
    calls = [
      CallDelta(first + at, self._new_id(), FunctionCall(*call)) for at, call in enumerate(self._taken(events))
    ]  # fmt: skip
    return Delta(
      content=_text(events, Content) or None,
      reasoning_content=_text(events, Reasoning) or None,
      tool_calls=calls or None,
    )

  def reason(self, grown: Growth) -> str | None:
    """OpenAI's word for the end."""
    return "tool_calls" if grown.reason == "stop" and self._calls else grown.reason

  def _events(self, grown: Growth) -> list[Event]:
    events = self._parser.feed(grown.text)
    return events if grown.finished is None else events + self._parser.end()

  def _taken(self, events: Sequence[Event]) -> list[Call]:
    calls = [event for event in events if isinstance(event, Call)]
    self._calls += len(calls)
    return calls

  def _new_id(self) -> str:
    if self._short_ids:
      return "".join(secrets.choice(_LETTERS) for _ in range(9))
    return f"call_{secrets.token_hex(12)}"


def _text(events: Sequence[Event], kind: type[Content] | type[Reasoning]) -> str:
  return "".join(event.text for event in events if isinstance(event, kind))
