"""An assistant's turn taken apart while it grows: what it says, what it thinks, which tools it calls.

What comes out does not depend on how the text was cut into pieces. A call comes when it is whole, so each one has valid
arguments; what looked like one and is none comes out as text. Nothing is lost but marks and the blanks beside them.
"""

from lynx_jax.text.channels import ChannelParser
from lynx_jax.text.tool_calls import Tools
from lynx_jax.text.turn_events import Content, Event, Reasoning, TurnParser, first_mark, joined, open_end
from lynx_jax.text.turn_formats import ReasoningFormat, ToolFormat, TurnFormat

_BLANKS = " \t\r\n"


def turn_parser(form: TurnFormat, tools: Tools, prompt: str) -> TurnParser:
  """The parser of a turn that goes on from `prompt`; without `tools` no call is looked for."""
  calls = form.tools if tools else None
  if form.in_channels:
    return ChannelParser({} if calls is None else tools, apart=form.reasoning is not None)
  return MarkParser(form.reasoning, calls, tools, opened=begins_in_reasoning(form.reasoning, prompt))


def begins_in_reasoning(reasoning: ReasoningFormat | None, prompt: str) -> bool:
  """Whether a prompt ends with the mark that begins the reasoning."""
  return reasoning is not None and prompt.rstrip(_BLANKS).endswith(reasoning.opens)


def ends_after_reasoning(reasoning: ReasoningFormat, prompt: str) -> bool:
  """Whether a prompt ends with the mark that ends the reasoning: the template lets the model have none."""
  return prompt.rstrip(_BLANKS).endswith(reasoning.closes)


class MarkParser:
  """Marks around reasoning, and around calls.

  It holds back what may still become a mark, blanks before it, and a block of calls until its end.
  """

  def __init__(
    self, reasoning: ReasoningFormat | None, calls: ToolFormat | None, tools: Tools, *, opened: bool = False
  ):
    """`opened` says that the turn begins inside the reasoning."""
    self._reasoning, self._calls, self._tools = reasoning, calls, tools
    self._begins = () if calls is None else (*calls.opens, *calls.silent)
    self._state = self._in_reasoning if opened else self._at_start
    self._text = ""  # What was not given out yet; of a block, what stands after its mark.
    self._mark = ""  # The blanks and the mark that a block began with.
    self._trims = opened  # Whether blanks that come next belong to a mark.
    self._scanned, self._quoted = 0, False

  def feed(self, text: str) -> list[Event]:
    """What is certain once this text has come."""
    self._text += text
    return self._events(last=False)

  def end(self) -> list[Event]:
    """What was held back, once no more text comes."""
    return self._events(last=True)

  def _events(self, *, last: bool) -> list[Event]:
    events: list[Event] = []
    # A state says whether another one, or itself again, can go on with what is left.
    while self._state(events, last):
      pass
    return joined(events)

  def _at_start(self, events: list[Event], last: bool) -> bool:
    """Before anything: reasoning may begin here, and nowhere else."""
    bare = self._text.lstrip(_BLANKS)
    if self._reasoning is not None:
      opens = self._reasoning.opens
      if bare.startswith(opens):
        self._text, self._trims, self._state = bare[len(opens) :], True, self._in_reasoning
        return True
      if opens.startswith(bare) and not last:
        return False
    self._state = self._at_answer
    return True

  def _in_reasoning(self, events: list[Event], last: bool) -> bool:
    assert self._reasoning is not None
    self._trim()
    closes = self._reasoning.closes
    at = self._text.find(closes)
    if at < 0:
      self._give(events, Reasoning, (closes,), last)
      return False
    events.append(Reasoning(self._text[:at].rstrip(_BLANKS)))
    self._text, self._trims, self._state = self._text[at + len(closes) :], True, self._at_answer
    return True

  def _at_answer(self, events: list[Event], last: bool) -> bool:
    """Before the answer: in some formats it is a call or none, as its beginning shows."""
    self._trim()
    calls = self._calls
    if calls is not None and calls.begins is not None:
      begins = calls.begins(_without(self._text, calls.silent))
      if begins is None and not last:
        return False
      if begins:
        self._mark, self._state = "", self._in_block
        return True
    self._state = self._in_text
    return True

  def _in_text(self, events: list[Event], last: bool) -> bool:
    self._trim()
    found = first_mark(self._text, self._begins)
    if found is None:
      self._give(events, Content, self._begins, last)
      return False
    at, mark = found
    before = self._text[:at].rstrip(_BLANKS)
    events.append(Content(before))
    blanks, self._text = self._text[len(before) : at], self._text[at + len(mark) :]
    assert self._calls is not None
    if mark in self._calls.silent:
      self._trims = True
    else:
      self._mark, self._state = blanks + mark, self._in_block
      self._scanned, self._quoted = 0, False
    return True

  def _in_block(self, events: list[Event], last: bool) -> bool:
    assert self._calls is not None
    at = self._end_of_block()
    if at is not None:
      body, self._text = self._text[:at], self._text[at + len(self._calls.closes) :]
      calls = self._read(body)
      events += calls or [Content(self._mark + body + self._calls.closes)]
      self._trims, self._state = bool(calls), self._in_text
      return True
    if last:
      body, self._text = self._text, ""
      calls = None if self._calls.closes else self._read(_without(body, self._calls.silent))
      events += calls or [Content(self._mark + body)]
      self._state = self._in_text
    return False

  def _read(self, body: str) -> list[Event] | None:
    """The calls of a block; of one that was begun again, those after its last beginning, and the text before."""
    assert self._calls is not None
    if calls := self._calls.read(body, self._tools):
      return list[Event](calls)
    again = [(at, mark) for mark in self._calls.opens if (at := body.rfind(mark)) >= 0]
    if not again:
      return None
    at, mark = max(again)
    calls = self._calls.read(body[at + len(mark) :], self._tools)
    return [Content(self._mark + body[:at].rstrip(_BLANKS)), *calls] if calls else None

  def _end_of_block(self) -> int | None:
    """Where the mark stands that ends the block; inside JSON's strings it is text."""
    assert self._calls is not None
    closes, text, at = self._calls.closes, self._text, self._scanned
    while closes and at < len(text):
      character = text[at]
      if self._quoted:
        if character == "\\":
          if at + 1 == len(text):
            break
          at += 1
        self._quoted = character != '"'
      elif text.startswith(closes, at):
        self._scanned = at
        return at
      elif len(text) - at < len(closes) and closes.startswith(text[at:]):
        break
      else:
        self._quoted = self._calls.quoted and character == '"'
      at += 1
    self._scanned = at
    return None

  def _trim(self) -> None:
    if self._trims:
      self._text = self._text.lstrip(_BLANKS)
      self._trims = not self._text

  def _give(
    self, events: list[Event], kind: type[Content] | type[Reasoning], marks: tuple[str, ...], last: bool
  ) -> None:
    """Gives out text, but not what may become one of `marks`, with blanks before it."""
    end = len(self._text)
    if marks and not last:
      end = len(self._text[: end - open_end(self._text, marks)].rstrip(_BLANKS))
    events.append(kind(self._text[:end]))
    self._text = self._text[end:]


def _without(text: str, marks: tuple[str, ...]) -> str:
  for mark in marks:
    text = text.replace(mark, "")
  return text
