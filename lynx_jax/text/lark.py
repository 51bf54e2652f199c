"""Grammars in Lark's notation, as llguidance reads it: JSON, choices, and reasoning before an answer."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from lynx_jax.text.turn_formats import ReasoningFormat
from pallas_kernels.checks import require

_ESCAPE_OR_SLASH = re.compile(r"\\.|/", re.DOTALL)
Mark: TypeAlias = Callable[[str], str]
"""Writes a mark of a format: as a special token where the tokenizer has it so, else as text."""

_BLANKS = r"[\x20\x0A\x0D\x09]{1,8}"
"""Blanks wherever JSON allows them. Without a bound, a small model may write nothing else."""


def literal(text: str) -> str:
  """Text as it is."""
  return json.dumps(text, ensure_ascii=False)


def json_value(schema: Any, *, lenient: bool = False) -> str:
  """JSON that a schema describes; `lenient` leaves out keywords of the schema that are not known."""
  if schema is True:
    schema = {}
  elif schema is False:
    schema = {"not": {}}
  require(isinstance(schema, Mapping), "a JSON schema", schema, "an object")
  options = {"whitespace_pattern": _BLANKS, "lenient": lenient}
  return f"%json {json.dumps({**schema, 'x-guidance': options})}"


def json_grammar(schema: Any, *, lenient: bool = False) -> str:
  """The grammar of JSON that a schema describes."""
  return f"start: {json_value(schema, lenient=lenient)}\n"


def choice_grammar(choices: Sequence[str]) -> str:
  """The grammar of one of several texts."""
  return f"start: CHOICE\nCHOICE: {' | '.join(map(literal, choices))}\n"


def regex_grammar(pattern: str) -> str:
  """The grammar of text that a regular expression matches as a whole."""
  # Both ends are bound in any case, and llguidance knows no anchors.
  pattern = pattern.removeprefix("^")
  if pattern.endswith("$") and not pattern.endswith("\\$"):
    pattern = pattern[:-1]
  written = _ESCAPE_OR_SLASH.sub(lambda found: r"\/" if found[0] == "/" else found[0], pattern)
  return f"start: TEXT\nTEXT: /{written.replace(chr(10), chr(92) + 'n')}/\n"


def reasoning_rules(form: ReasoningFormat, mark: Mark, *, opened: bool) -> str:
  """Rules for `reasoning`, which comes before an answer.

  Args:
    form: how it is marked.
    mark: writes its marks.
    opened: whether the prompt has begun it, so that it must be ended. If not, there need be none.
  """
  if form.name == "harmony":
    thought = f'"analysis" {mark("<|message|>")} REST {mark("<|end|>")} {mark("<|start|>")} "assistant"'
    return f"reasoning: ({mark('<|channel|>')} {thought})?\nREST: /(?s:.*)/\n"
  closes = mark(form.closes)
  begin = "rest" if opened else f"({mark(form.opens)} rest)?"
  if is_token(closes):
    return f"reasoning: {begin}\nrest: REST {closes} GAP?\nREST: /(?s:.*)/\n{_GAP}"
  return f"reasoning: {begin}\nrest: thought GAP?\nthought[suffix={closes}]: /(?s:.*)/\n{_GAP}"


_GAP = "GAP: /\\n{1,2}/\n"


def token(number: int) -> str:
  """A token by its id."""
  return f"<[{number}]>"


def is_token(rule: str) -> bool:
  """Whether a mark is a token, and no text."""
  return rule.startswith("<[")
