"""Turns in channels, as gpt-oss writes them (OpenAI's harmony format): each message has a header and a body."""

import re

from lynx_jax.text.tool_calls import Tools, named_call
from lynx_jax.text.turn_events import Content, Event, Reasoning, first_mark, joined, open_end

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_AFTER_HEADER = (MESSAGE, START, *_ENDS)
_AFTER_BODY = (START, CHANNEL, *_ENDS)
_TO = r"\s*(?:to=(?P<{}>\S+?))?\s*"
_HEADER = re.compile(
  r"(?:assistant)?" + _TO.format("first") + r"(?:<\|channel\|>\s*(?P<channel>\w+))?" + _TO.format("second")
  + r"(?:(?:<\|constrain\|>)?\s*\w+)?\s*"
)  # fmt: skip
"""A role, whom the message is to, a channel, and the type of the content."""


class ChannelParser:
  """Messages of a turn that goes on after `<|start|>assistant`.

  The channel `analysis` is reasoning, a message to a function is a call, all others are the answer.
  """

  def __init__(self, tools: Tools, *, apart: bool = True):
    """`apart` says whether reasoning is kept apart from the answer."""
    self._tools, self._apart = tools, apart
    self._state = self._at_start
    self._text = ""  # What was not given out yet.
    self._header = ""  # Of the message, its first mark included.
    self._kind: type[Content] | type[Reasoning] = Content
    self._callee = ""

  def feed(self, text: str) -> list[Event]:
    """What is certain once this text has come."""
    self._text += text
    return self._events(last=False)

  def end(self) -> list[Event]:
    """What was held back, once no more text comes."""
    return self._events(last=True)

  def _events(self, *, last: bool) -> list[Event]:
    events: list[Event] = []
    # A state says whether another one can go on with what is left.
    while self._state(events, last):
      pass
    return joined(events)

  def _at_start(self, events: list[Event], last: bool) -> bool:
    """The prompt has begun the header; a turn without one is an answer."""
    bare = self._text.lstrip()
    headers = (START, CHANNEL, MESSAGE, "to=")
    if bare.startswith(headers):
      self._state = self._in_header
    elif not last and any(one.startswith(bare) for one in headers):
      return False
    else:
      self._state = self._in_body
    return True

  def _in_header(self, events: list[Event], last: bool) -> bool:
    found = first_mark(self._text, _AFTER_HEADER)
    if found is None:
      if last:
        events.append(Content(self._header + self._text))
        self._header = self._text = ""
      return False
    at, mark = found
    self._header += self._text[:at]
    self._text = self._text[at + len(mark) :]
    if mark == MESSAGE:
      self._begin_body(events)
      return True
    # It has no body.
    self._lose_header(events, "" if mark == START else mark)
    self._header, self._state = (START, self._in_header) if mark == START else ("", self._between)
    return True

  def _lose_header(self, events: list[Event], mark: str) -> None:
    if self._header.strip():
      events.append(Content(self._header + mark))

  def _begin_body(self, events: list[Event]) -> None:
    """What the header says of the body."""
    found = _HEADER.fullmatch(self._header.removeprefix(START))
    if found is None:
      events.append(Content(self._header + MESSAGE))
    recipient = "" if found is None else found["first"] or found["second"] or ""
    name = recipient.removeprefix("functions.")
    self._callee = name if name in self._tools else ""
    thinks = found is not None and found["channel"] == "analysis" and self._apart
    self._kind = Reasoning if thinks else Content
    self._state = self._in_body

  def _in_body(self, events: list[Event], last: bool) -> bool:
    found = first_mark(self._text, _AFTER_BODY)
    if found is None and not last:
      if not self._callee:
        end = len(self._text) - open_end(self._text, _AFTER_BODY)
        events.append(self._kind(self._text[:end]))
        self._text = self._text[end:]
      return False
    at, mark = found or (len(self._text), "")
    body, self._text = self._text[:at], self._text[at + len(mark) :]
    if self._callee:
      call = named_call(self._callee, body, self._tools)
      events.append(call or Content(self._header + MESSAGE + body + (mark if mark in _ENDS else "")))
    else:
      events.append(self._kind(body))
    self._callee, self._header = "", mark if mark in (START, CHANNEL) else ""
    self._state = self._in_header if self._header else self._between
    return found is not None

  def _between(self, events: list[Event], last: bool) -> bool:
    """Between messages there should be nothing."""
    found = first_mark(self._text, (START, CHANNEL))
    if found is None:
      end = len(self._text) if last else len(self._text) - open_end(self._text, (START, CHANNEL))
      text, self._text = self._text[:end], self._text[end:]
      events.append(Content(text))
      return False
    at, mark = found
    events.append(Content(self._text[:at]))
    self._header, self._text, self._state = mark, self._text[at + len(mark) :], self._in_header
    return True
