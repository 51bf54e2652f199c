"""How families mark reasoning and calls of tools in an assistant's turn: one row a format."""

import dataclasses
from collections.abc import Callable, Iterable

from lynx_jax.text import tool_calls
from pallas_kernels.checks import require

NONE = "none"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningFormat:
  """Marks around what a model thinks before it answers.

  Attributes:
    name: of the format.
    opens: begins the reasoning, before anything else; or the prompt ends with it.
    closes: ends it.
  """

  name: str
  opens: str
  closes: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
  """Marks around calls of tools, and what stands between them.

  Attributes:
    name: of the format.
    read: what stands between the marks, as calls.
    opens: marks that begin a block of calls.
    closes: ends it; "" if nothing does but the end of the turn.
    quoted: whether marks inside JSON strings of a block are text.
    silent: marks around blocks that are left out.
    inner: marks inside blocks.
    begins: for turns that are a call without a mark: whether text begins one, None if that cannot be told yet.
    parallel: whether a turn may hold several calls.
    short_ids: whether ids of calls are nine letters and digits.
  """

  name: str
  read: tool_calls.Reader
  opens: tuple[str, ...] = ()
  closes: str = ""
  quoted: bool = True
  silent: tuple[str, ...] = ()
  inner: tuple[str, ...] = ()
  begins: Callable[[str], bool | None] | None = None
  parallel: bool = True
  short_ids: bool = False

  @property
  def marks(self) -> tuple[str, ...]:
    """All marks, which a tokenizer may have as special tokens."""
    return (*self.opens, *([self.closes] if self.closes else []), *self.silent, *self.inner)


def _begins_python(text: str) -> bool | None:
  """Whether text begins `[NAME(`."""
  bare = "".join(text.split())
  if not bare.startswith("["):
    return False if bare else None
  name, bracket, _ = bare[1:].partition("(")
  if name and not name.replace(".", "_").isidentifier():
    return False
  return True if bracket and name else False if bracket else None


def _begins_object(text: str) -> bool | None:
  """Whether text begins `{"name":`."""
  bare, begin = "".join(text.split()), '{"name":'
  return True if bare.startswith(begin) else None if begin.startswith(bare) else False


TOOL_FORMATS = {
  row.name: row
  for row in (
    ToolFormat(name="hermes", read=tool_calls.json_calls, opens=("<tool_call>",), closes="</tool_call>"),
    ToolFormat(
      name="qwen_xml", read=tool_calls.tagged_call, opens=("<tool_call>",), closes="</tool_call>", quoted=False
    ),
    ToolFormat(name="glm", read=tool_calls.keyed_call, opens=("<tool_call>",), closes="</tool_call>", quoted=False),
    *(
      ToolFormat(
        name=name,
        read=tool_calls.separated_call,
        opens=(tool_calls.deepseek_mark("call begin"),),
        closes=tool_calls.deepseek_mark("call end"),
        silent=(tool_calls.deepseek_mark("calls begin"), tool_calls.deepseek_mark("calls end")),
        inner=(tool_calls.deepseek_mark("sep"),),
      )
      for name in ("deepseek_v3", "deepseek_v31")
    ),
    ToolFormat(name="mistral", read=tool_calls.bracketed_calls, opens=("[TOOL_CALLS]",), short_ids=True),
    ToolFormat(
      name="mistral_args",
      read=tool_calls.bracketed_calls,
      opens=("[TOOL_CALLS]",),
      inner=("[ARGS]", "[CALL_ID]"),
      short_ids=True,
    ),
    ToolFormat(name="granite", read=tool_calls.json_calls, opens=("<|tool_call|>",)),
    ToolFormat(
      name="lfm2",
      read=tool_calls.python_calls,
      opens=("<|tool_call_start|>",),
      closes="<|tool_call_end|>",
      quoted=False,
    ),
    ToolFormat(
      name="llama4_pythonic",
      read=tool_calls.python_calls,
      silent=("<|python_start|>", "<|python_end|>"),
      begins=_begins_python,
    ),
    ToolFormat(
      name="llama_json",
      read=tool_calls.json_calls,
      opens=("<|python_tag|>",),
      silent=("<|python_start|>", "<|python_end|>"),
      begins=_begins_object,
      parallel=False,
    ),
    # Read by `Channels`, whose marks these are.
    ToolFormat(
      name="harmony",
      read=tool_calls.json_calls,
      inner=("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>"),
      parallel=False,
    ),
  )
}
REASONING_FORMATS = {
  row.name: row
  for row in (
    ReasoningFormat(name="think", opens="<think>", closes="</think>"),
    ReasoningFormat(name="mistral", opens="[THINK]", closes="[/THINK]"),
    ReasoningFormat(name="harmony", opens="<|channel|>analysis<|message|>", closes="<|end|>"),
  )
}

# Of the rows that fit, the first is taken: what a template must hold, all of it, and the model's family, if it matters.
_TOOLS_BY_TEMPLATE: tuple[tuple[str, tuple[str, ...], str | None], ...] = (
  ("harmony", ("<|channel|>", "<|message|>"), None),
  ("deepseek_v3", (tool_calls.deepseek_mark("call begin"), "```json"), None),
  ("deepseek_v31", (tool_calls.deepseek_mark("call begin"),), None),
  ("mistral_args", ("[TOOL_CALLS]", "[ARGS]"), None),
  ("mistral", ("[TOOL_CALLS]",), None),
  ("glm", ("<tool_call>", "<arg_key>"), None),
  ("qwen_xml", ("<tool_call>", "<function="), None),
  ("hermes", ("<tool_call>",), None),
  ("lfm2", ("<|tool_call_start|>",), None),
  ("granite", ("<|tool_call|>",), None),
  # Llama's families share a template in which calls are objects; Llama 4's own has Python's calls.
  ("llama_json", ("tools", '"parameters": '), None),
  ("llama4_pythonic", ("tools",), "llama4_text"),
)
_REASONING_BY_TEMPLATE: tuple[tuple[str, tuple[str, ...], str | None], ...] = (
  ("harmony", ("<|channel|>", "<|message|>"), None),
  ("mistral", ("[THINK]",), None),
  ("think", ("</think>",), None),
)


@dataclasses.dataclass(frozen=True, slots=True)
class TurnFormat:
  """How an assistant's turn is written.

  Attributes:
    tools: None if the model knows none.
    reasoning: None if the model marks none.
  """

  tools: ToolFormat | None
  reasoning: ReasoningFormat | None

  @property
  def in_channels(self) -> bool:
    """Whether the turn is in harmony's channels."""
    return any(one is not None and one.name == "harmony" for one in (self.tools, self.reasoning))

  @property
  def marks(self) -> tuple[str, ...]:
    """All marks, which a tokenizer may have as special tokens."""
    if self.in_channels:
      return TOOL_FORMATS["harmony"].marks
    reasoning = () if self.reasoning is None else (self.reasoning.opens, self.reasoning.closes)
    return (*reasoning, *(() if self.tools is None else self.tools.marks))


def turn_format(
  template: str | None, family: str, tools: str | None = None, reasoning: str | None = None
) -> TurnFormat:
  """The format of a model's turns.

  Args:
    template: the chat template.
    family: of the model, where templates alone do not tell.
    tools: name of a format in place of what the template shows; "none" is none.
    reasoning: the same for reasoning.

  Raises:
    ValueError: there is no such format.
  """
  found = tools or _fitting(template or "", family, _TOOLS_BY_TEMPLATE)
  thought = reasoning or _fitting(template or "", family, _REASONING_BY_TEMPLATE)
  for name, value, known in (("tool_format", found, TOOL_FORMATS), ("reasoning_format", thought, REASONING_FORMATS)):
    require(value in (NONE, *known), name, value, f"one of {', '.join((*known, NONE))}")
  return TurnFormat(TOOL_FORMATS.get(found), REASONING_FORMATS.get(thought))


def _fitting(template: str, family: str, rows: Iterable[tuple[str, tuple[str, ...], str | None]]) -> str:
  fitting = (name for name, parts, own in rows if all(part in template for part in parts) and own in (None, family))
  return next(fitting, NONE)
