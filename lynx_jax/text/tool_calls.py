"""Calls of tools as families write them, read into OpenAI's form: a name, and its arguments as JSON.

Each reader takes what stands between a family's markers. It gives None for anything that is no call, and never raises.
"""

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

Tools: TypeAlias = Mapping[str, Mapping[str, Any]]
"""The JSON schema of each tool's arguments, by its name."""


class Call(NamedTuple):
  """One call.

  Attributes:
    name: of a tool that there is.
    arguments: a JSON object.
  """

  name: str
  arguments: str


Reader: TypeAlias = Callable[[str, Tools], list[Call] | None]

_MOST_PYTHON = 2**16
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>(.*?)</parameter>", re.DOTALL)
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*)</function>\s*", re.DOTALL)
_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_FENCED = re.compile(r"([^\n]*)\n```json\n(.*)\n```\s*", re.DOTALL)
_WITH_ID = re.compile(r"(.*)\[CALL_ID\]\w*", re.DOTALL)
_JSON_NAMES = {"true": True, "false": False, "null": None}


def deepseek_mark(name: str) -> str:
  """One of DeepSeek's marks, whose bars and gaps are other characters than they seem."""
  return f"<\uff5ctool\u2581{name.replace(' ', chr(0x2581))}\uff5c>"


def json_calls(body: str, tools: Tools) -> list[Call] | None:
  """An object with `name` and `arguments` or `parameters`, or a list of such."""
  found = _json(body)
  entries = found if isinstance(found, list) else [found]
  calls = [_call_of(entry, tools) for entry in entries]
  return [call for call in calls if call] if calls and all(calls) else None


def named_call(name: str, arguments: str, tools: Tools) -> Call | None:
  """A call whose arguments are a JSON object."""
  given = _json(arguments) if arguments.strip() else {}
  return _call(name.strip(), given, tools)


def tagged_call(body: str, tools: Tools) -> list[Call] | None:
  """`<function=NAME>`, then `<parameter=KEY>` and its value as text; Qwen3-Coder, Qwen3.5, Nemotron 3."""
  whole = _FUNCTION.fullmatch(body)
  if whole is None or _PARAMETER.sub("", whole[2]).strip():
    return None
  pairs = [(key.strip(), _trimmed(value)) for key, value in _PARAMETER.findall(whole[2])]
  return _from_pairs(whole[1].strip(), pairs, tools)


def keyed_call(body: str, tools: Tools) -> list[Call] | None:
  """NAME, then `<arg_key>` and `<arg_value>` in turns; GLM 4.5."""
  at = body.find("<arg_key>")
  name, rest = (body, "") if at < 0 else (body[:at], body[at:])
  if _ARGUMENT.sub("", rest).strip():
    return None
  return _from_pairs(name.strip(), [(key.strip(), value) for key, value in _ARGUMENT.findall(rest)], tools)


def separated_call(body: str, tools: Tools) -> list[Call] | None:
  """A kind, a separator, NAME, and arguments in a fence; DeepSeek V3. Or NAME, a separator, arguments: V3.1."""
  left, separator, right = body.partition(deepseek_mark("sep"))
  if not separator:
    return None
  fenced = _FENCED.fullmatch(right) if left.strip() == "function" else None
  call = named_call(fenced[1], fenced[2], tools) if fenced else named_call(left, right, tools)
  return [call] if call else None


def bracketed_calls(body: str, tools: Tools) -> list[Call] | None:
  """A list of JSON objects; or NAME, `[ARGS]` and arguments, each call after a marker of its own; Mistral."""
  if body.lstrip().startswith(("[", "{")):
    return json_calls(body, tools)
  calls = []
  for part in body.split("[TOOL_CALLS]"):
    name, arguments = _name_and_rest(part)
    call = named_call(name, arguments, tools)
    if call is None:
      return None
    calls.append(call)
  return calls


def python_calls(body: str, tools: Tools) -> list[Call] | None:
  """`[NAME(KEY=VALUE, ...), ...]` with Python's literals; Llama 4, LFM2."""
  body = body.strip()
  if len(body) > _MOST_PYTHON:
    return None
  try:
    with warnings.catch_warnings():
      # Text such as "\d" is no fault of ours.
      warnings.simplefilter("ignore")
      tree = ast.parse(body, mode="eval").body
    entries = tree.elts if isinstance(tree, ast.List) else [tree]
    calls = [_call(_dotted(entry.func), _keywords(entry), tools) for entry in entries if isinstance(entry, ast.Call)]
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None
  good = [call for call in calls if call]
  return good if good and len(good) == len(entries) else None


def _call_of(entry: object, tools: Tools) -> Call | None:
  if not isinstance(entry, Mapping):
    return None
  inner = entry.get("function")
  if isinstance(inner, Mapping):
    entry = inner
  given = entry.get("arguments", entry.get("parameters"))
  return _call(entry.get("name"), given, tools)


def _call(name: object, arguments: object, tools: Tools) -> Call | None:
  """A call of a tool that there is, whose arguments are an object."""
  if isinstance(arguments, str):
    # Some models write the object as text in the text.
    arguments = _json(arguments)
  arguments = {} if arguments is None else arguments
  if not isinstance(name, str) or name not in tools or not isinstance(arguments, dict):
    return None
  try:
    return Call(name, _written(arguments))
  except (ValueError, RecursionError):
    return None


def _written(value: object) -> str:
  text = json.dumps(value, ensure_ascii=False, allow_nan=False)
  try:
    text.encode()
  except UnicodeEncodeError:
    # A lone surrogate, which JSON can only name.
    return json.dumps(value, allow_nan=False)
  return text


def _json(text: str) -> Any:
  """What JSON text says; a value that is no object where it says nothing."""
  try:
    return json.loads(text, parse_constant=_no_number)
  except (ValueError, RecursionError):
    return ...


def _no_number(name: str) -> None:
  raise ValueError(f"{name} is no JSON")


def _trimmed(value: str) -> str:
  """A value without the line breaks that its tags stand on."""
  return value.removeprefix("\n").removesuffix("\n")


def _from_pairs(name: str, pairs: Sequence[tuple[str, str]], tools: Tools) -> list[Call] | None:
  """A call whose values are text: JSON where the tool's schema does not want text."""
  properties = tools.get(name, {}).get("properties")
  schemas = properties if isinstance(properties, Mapping) else {}
  arguments = {key: _value(text, schemas.get(key)) for key, text in pairs}
  call = _call(name, arguments, tools)
  return [call] if call else None


def _value(text: str, schema: object) -> object:
  if wants_text(schema):
    return text
  found = _json(text)
  return text if found is ... else found


def wants_text(schema: object) -> bool:
  """Whether a schema says that a value is text."""
  return isinstance(schema, Mapping) and schema.get("type") == "string"


def _name_and_rest(part: str) -> tuple[str, str]:
  """A name, and what follows it: after `[ARGS]`, or from the first brace on."""
  name, marker, rest = part.partition("[ARGS]")
  if not marker:
    brace = part.find("{")
    name, rest = (part, "") if brace < 0 else (part[:brace], part[brace:])
  found = _WITH_ID.fullmatch(name)
  return (found[1] if found else name), rest


def _dotted(node: ast.expr) -> str:
  parts = []
  while isinstance(node, ast.Attribute):
    parts.append(node.attr)
    node = node.value
  if not isinstance(node, ast.Name):
    raise ValueError("no name")
  return ".".join([node.id, *reversed(parts)])


def _keywords(call: ast.Call) -> dict[str, object]:
  if call.args or any(one.arg is None for one in call.keywords):
    raise ValueError("arguments without names")
  return {str(one.arg): _literal(one.value) for one in call.keywords}


def _literal(node: ast.expr) -> object:
  """The value of a literal of Python or JSON."""
  if isinstance(node, ast.Name) and node.id in _JSON_NAMES:
    return _JSON_NAMES[node.id]
  if isinstance(node, ast.List | ast.Tuple):
    return [_literal(one) for one in node.elts]
  if isinstance(node, ast.Dict):
    return dict(_entries(node))
  value = ast.literal_eval(node)
  if not isinstance(value, str | int | float | None):
    raise ValueError("no literal of JSON")
  return value


def _entries(node: ast.Dict) -> Iterator[tuple[str, object]]:
  for key, value in zip(node.keys, node.values, strict=True):
    name = None if key is None else _literal(key)
    if not isinstance(name, str):
      raise ValueError("a key that is no text")
    yield name, _literal(value)
