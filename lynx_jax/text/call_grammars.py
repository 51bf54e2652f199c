"""Grammars of calls of tools, as the families' formats write them."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from lynx_jax.text.lark import Mark, json_value, literal
from lynx_jax.text.tool_calls import Tools, deepseek_mark, wants_text
from lynx_jax.text.turn_formats import ToolFormat
from pallas_kernels.checks import require

_LINE = literal("\n")
_PLAIN_KEY = re.compile(r"[^<>\r\n]+")


class Value(NamedTuple):
  """One argument: its key, whether it must be there, and the rule of its value."""

  key: str
  required: bool
  rule: str


Writer: TypeAlias = Callable[[Tools, Mark, bool], str]
"""Writes the grammar of calls; the flag says whether there may be several."""


def call_grammar(form: ToolFormat, tools: Tools, mark: Mark, *, several: bool) -> str:
  """The grammar of one call of one of `tools`, or of one or `several`.

  Raises:
    ValueError: the name of an argument cannot be written in this format.
  """
  return _WRITERS[form.name](tools, mark, several and form.parallel)


def _hermes(tools: Tools, mark: Mark, several: bool) -> str:
  def call(name: str, arguments: str) -> str:
    head = literal(f'\n{{"name": "{name}", "arguments": ')
    return f"{mark('<tool_call>')} {head} {arguments} {literal('}' + chr(10))} {mark('</tool_call>')}"

  return _repeated(several, _LINE) + _objects(tools, call)


def _listed(opens: str) -> Writer:
  def write(tools: Tools, mark: Mark, several: bool) -> str:
    many = _repeated(several, literal(", ")).removeprefix("start: ").strip()
    return f'start: {mark(opens)} "[" {many} "]"\n' + _objects(tools, _as_object("arguments"))

  return write


def _alone(tools: Tools, mark: Mark, several: bool) -> str:
  return _repeated(False) + _objects(tools, _as_object("parameters"))


def _as_object(key: str) -> Callable[[str, str], str]:
  """A call as an object that has its arguments as `key`."""

  def call(name: str, arguments: str) -> str:
    head = literal(f'{{"name": "{name}", "{key}": ')
    return f"{head} {arguments} {literal('}')}"

  return call


def _mistral_args(tools: Tools, mark: Mark, several: bool) -> str:
  def call(name: str, arguments: str) -> str:
    return f"{mark('[TOOL_CALLS]')} {literal(name)} {mark('[ARGS]')} {arguments}"

  return _repeated(several) + _objects(tools, call)


def _deepseek(fenced: bool) -> Writer:
  def write(tools: Tools, mark: Mark, several: bool) -> str:
    begin, sep, end = (mark(deepseek_mark(name)) for name in ("call begin", "sep", "call end"))

    def call(name: str, arguments: str) -> str:
      if not fenced:
        return f"{begin} {literal(name)} {sep} {arguments} {end}"
      head, tail = literal(f"{name}\n```json\n"), literal("\n```")
      return f'{begin} "function" {sep} {head} {arguments} {tail} {end}'

    many = _repeated(several, _LINE if fenced else "").removeprefix("start: ").strip()
    first, last = (mark(deepseek_mark(name)) for name in ("calls begin", "calls end"))
    return f"start: {first} {many} {last}\n" + _objects(tools, call)

  return write


def _harmony(tools: Tools, mark: Mark, several: bool) -> str:
  def call(name: str, arguments: str) -> str:
    to = literal(f"commentary to=functions.{name} ")
    return f'{mark("<|channel|>")} {to} {mark("<|constrain|>")} "json" {mark("<|message|>")} {arguments}'

  return _repeated(False) + _objects(tools, call)


def _qwen_xml(tools: Tools, mark: Mark, several: bool) -> str:
  def call(name: str, values: Sequence[Value]) -> str:
    head, tail = literal(f"\n<function={name}>\n"), literal("</function>\n")
    parts = _in_order(values, lambda key: f"<parameter={key}>\n")
    return f"{mark('<tool_call>')} {head} {parts} {tail} {mark('</tool_call>')}"

  return _repeated(several, _LINE) + _apart(tools, call, "\n</parameter>\n")


def _glm(tools: Tools, mark: Mark, several: bool) -> str:
  def call(name: str, values: Sequence[Value]) -> str:
    parts = _in_order(values, lambda key: f"<arg_key>{key}</arg_key>\n<arg_value>")
    return f"{mark('<tool_call>')} {literal(name + chr(10))} {parts} {mark('</tool_call>')}"

  return _repeated(several, _LINE) + _apart(tools, call, "</arg_value>\n")


def _python(opens: str = "", closes: str = "") -> Writer:
  def write(tools: Tools, mark: Mark, several: bool) -> str:
    begin, end = (mark(opens), mark(closes)) if opens else ("", "")
    many = _repeated(several, literal(", ")).removeprefix("start: ").strip()
    return f'start: {begin} "[" {many} "]" {end}\n' + _apart(tools, _python_call, None)

  return write


def _python_call(name: str, values: Sequence[Value]) -> str:
  for key in (value.key for value in values):
    require(key.isidentifier(), f"an argument of {name}", key, "a name of Python's in this model's calls")
  needed = [f"{literal(one.key + '=')} {one.rule}" for one in values if one.required]
  free = [f"{literal(one.key + '=')} {one.rule}" for one in values if not one.required]
  comma = literal(", ")
  if needed:
    inside = " ".join([f" {comma} ".join(needed), *(f"({comma} {one})?" for one in free)])
  else:
    # The first that comes has no comma before it.
    ways = [" ".join([one, *(f"({comma} {other})?" for other in free[at + 1 :])]) for at, one in enumerate(free)]
    inside = f"({' | '.join(ways)})?" if ways else ""
  return f"{literal(name + '(')} {inside} {literal(')')}"


def _in_order(values: Sequence[Value], head: Callable[[str], str]) -> str:
  """Values after their keys; those that need not be there may be left out."""
  parts = []
  for value in values:
    require(_PLAIN_KEY.fullmatch(value.key) is not None, "an argument of a tool", value.key, "a name without <, >")
    part = f"{literal(head(value.key))} {value.rule}"
    parts.append(part if value.required else f"({part})?")
  return " ".join(parts)


def _repeated(several: bool, between: str = "") -> str:
  """The start of a grammar: one call, or several with something between."""
  return f"start: call ({between} call)*\n" if several else "start: call\n"


def _objects(tools: Tools, call: Callable[[str, str], str]) -> str:
  """Rules for `call`, each tool's arguments as one JSON object. A schema keeps its own root, which `$ref` names."""
  rules = []
  for at, (name, schema) in enumerate(tools.items()):
    rules.append(f"call_{at}: {call(name, f'arguments_{at}')}\n")
    rules.append(f"arguments_{at}: {json_value(arguments_schema(schema))}\n")
  return _any_call(len(tools)) + "".join(rules)


def _apart(tools: Tools, call: Callable[[str, Sequence[Value]], str], text_end: str | None) -> str:
  """Rules for `call`, each value by itself. Text goes on to `text_end`; None writes it as JSON does."""
  rules = []
  for at, (name, schema) in enumerate(tools.items()):
    known = arguments_schema(schema)
    values, required, properties = [], known.get("required", []), known.get("properties", {})
    require(isinstance(properties, Mapping), f"properties of {name}", properties, "an object")
    require(isinstance(required, list), f"required of {name}", required, "a list")
    for number, (key, value) in enumerate(properties.items()):
      values.append(Value(key, key in required, f"value_{at}_{number}"))
      rules.append(_value_rule(values[-1].rule, value, known, text_end))
    rules.append(f"call_{at}: {call(name, values)}\n")
  return _any_call(len(tools)) + "".join(rules)


def _value_rule(rule: str, schema: Any, whole: Mapping[str, Any], text_end: str | None) -> str:
  if isinstance(schema, Mapping):
    schema = {**schema, **{key: whole[key] for key in ("$defs", "definitions") if key in whole}}
  if text_end is None:
    return f"{rule}: {json_value(schema)}\n"
  end = literal(text_end)
  if not wants_text(schema):
    return f"{rule}: {rule}_json {end}\n{rule}_json: {json_value(schema)}\n"
  if "enum" in schema:
    require(isinstance(schema["enum"], list), "enum", schema["enum"], "a list")
    return f"{rule}: ({' | '.join(literal(str(one)) for one in schema['enum'])}) {end}\n"
  return f"{rule}[suffix={end}]: /(?s:.*)/\n"


def _any_call(count: int) -> str:
  return f"call: {' | '.join(f'call_{at}' for at in range(count))}\n"


def arguments_schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
  """A tool's schema; a tool without one takes no argument."""
  return schema or {"type": "object", "properties": {}, "additionalProperties": False}


_WRITERS: Mapping[str, Writer] = {
  "hermes": _hermes,
  "qwen_xml": _qwen_xml,
  "glm": _glm,
  "deepseek_v3": _deepseek(fenced=True),
  "deepseek_v31": _deepseek(fenced=False),
  "mistral": _listed("[TOOL_CALLS]"),
  "mistral_args": _mistral_args,
  "granite": _listed("<|tool_call|>"),
  "lfm2": _python("<|tool_call_start|>", "<|tool_call_end|>"),
  "llama4_pythonic": _python(),
  "llama_json": _alone,
  "harmony": _harmony,
}
