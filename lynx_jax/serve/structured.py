"""The form that an answer must have: what a body asks for, as a constraint of the engine."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from lynx_jax.engine.host.constraint import Constraint
from lynx_jax.serve.errors import ApiError, refused
from lynx_jax.serve.schema import Decoding, JsonSchema, ResponseFormat
from lynx_jax.serve.served import Served
from lynx_jax.serve.tool_use import NO_TOOLS, ToolUse
from lynx_jax.text.call_grammars import call_grammar
from lynx_jax.text.grammar import MOST_CHARACTERS, as_lark
from lynx_jax.text.lark import choice_grammar, json_grammar, regex_grammar
from lynx_jax.text.turn_grammar import turn_grammar

_MOST_REGEX = 2**13
"""Characters of a regular expression. An automaton of 30 kB took a second of a thread to be refused."""


class Form(NamedTuple):
  """What an answer must be.

  Attributes:
    param: the field that asks for it.
    grammar: of the answer, in Lark's notation.
  """

  param: str
  grammar: str


def asked_form(body: Decoding) -> Form | None:
  """The form that a body asks for; None if it may be anything.

  Raises:
    ApiError: several are asked for, or one that cannot be.
  """
  forms = list(_forms(body))
  if len(forms) > 1:
    first, second = forms[0].param, forms[1].param
    raise ApiError(400, f"{second} is given beside {first}: expected one of them", param=second)
  return forms[0] if forms else None


async def constraint_of(
  served: Served, form: Form | None, use: ToolUse = NO_TOOLS, prompt: str | None = None
) -> Constraint | None:
  """The constraint of an answer; None if it may be anything.

  Args:
    served: the model.
    form: of the answer.
    use: tools that it may call.
    prompt: what it goes on from, if it is a turn of a chat.

  Raises:
    ApiError: there is no tokenizer, or the form cannot be read or is too complex.
  """
  if form is None and not use.must:
    return None
  param = "tools" if form is None or use.must else form.param
  if served.tokenizer is None:
    raise refused(param, "given", "nothing, as this model has no tokenizer")
  try:
    return await served.in_thread(_made, served, form, use, prompt)
  except ValueError as error:
    raise ApiError(400, f"{param}: {error}", param=param) from error


def _made(served: Served, form: Form | None, use: ToolUse, prompt: str | None) -> Constraint:
  """In a thread: a grammar takes milliseconds, and the first one waits for the vocabulary."""
  grammars, turns = served.grammars(), served.turns
  answer = None if form is None or use.must else form.grammar
  if prompt is None:
    assert answer is not None
    return grammars.lark(answer)
  calls = None
  if use.tools and turns.tools is not None:
    calls = call_grammar(turns.tools, use.tools, grammars.mark, several=use.several)
  return grammars.lark(turn_grammar(turns, grammars.mark, answer=answer, calls=calls, prompt=prompt))


def _forms(body: Decoding) -> Iterator[Form]:
  """All forms that a body asks for."""
  if body.response_format is not None and body.response_format.type != "text":
    yield _response_format(body.response_format)
  given, inside = body.structured_outputs, "structured_outputs"
  if given is not None:
    yield from _form(f"{inside}.json", given.json_, _json_form)
    yield from _form(f"{inside}.regex", given.regex, _regex_form)
    yield from _form(f"{inside}.choice", given.choice, _choice_form)
    yield from _form(f"{inside}.grammar", given.grammar, _grammar_form)
    yield from _form(f"{inside}.json_object", given.json_object or None, _object_form)
    if given.model_extra:
      name = next(iter(given.model_extra))[:200]
      raise refused(f"{inside}.{name}", "given", "json, regex, choice, grammar or json_object")
  yield from _form("guided_json", body.guided_json, _json_form)
  yield from _form("guided_regex", body.guided_regex, _regex_form)
  yield from _form("guided_choice", body.guided_choice, _choice_form)
  yield from _form("guided_grammar", body.guided_grammar, _grammar_form)


def _form(param: str, value: Any, make: Any) -> Iterator[Form]:
  if value is not None:
    yield Form(param, make(param, value))


def _response_format(given: ResponseFormat) -> Form:
  if given.type == "json_object":
    return Form("response_format", json_grammar({"type": "object"}))
  param = "response_format.json_schema"
  if given.json_schema is None:
    raise ApiError(400, f"{param} is missing: it is needed with the type json_schema", param=param)
  return Form(f"{param}.schema", _schema_form(f"{param}.schema", given.json_schema))


def _schema_form(param: str, given: JsonSchema) -> str:
  if given.schema_ is None:
    return json_grammar({"type": "object"})
  # OpenAI's `strict: false` promises less: what is not known in the schema is left out.
  return json_grammar(_checked_schema(param, given.schema_), lenient=given.strict is False)


def _json_form(param: str, value: Any) -> str:
  """A schema, which may also come as text."""
  if isinstance(value, str):
    try:
      value = json.loads(value)
    except (ValueError, RecursionError) as error:
      raise refused(param, value, f"a JSON schema; this is no JSON ({error})") from error
  return json_grammar(_checked_schema(param, value))


def _checked_schema(param: str, schema: Any) -> Any:
  if not isinstance(schema, dict | bool):
    raise refused(param, schema, "a JSON schema: an object")
  try:
    size = len(json.dumps(schema))
  except (ValueError, RecursionError) as error:
    raise refused(param, "nested too deep", "a JSON schema") from error
  if size > MOST_CHARACTERS:
    raise refused(param, f"{size} characters", f"at most {MOST_CHARACTERS}", "describe less of it")
  return schema


def _regex_form(param: str, value: str) -> str:
  return regex_grammar(_bounded(param, value, _MOST_REGEX))


def _choice_form(param: str, value: list[str]) -> str:
  if not all(value):
    raise refused(param, value, "texts that are not empty")
  return choice_grammar(value)


def _grammar_form(param: str, value: str) -> str:
  try:
    return as_lark(_bounded(param, value))
  except ValueError as error:
    raise ApiError(400, f"{param}: {error}", param=param) from error


def _object_form(param: str, value: bool) -> str:
  return json_grammar({"type": "object"})


def _bounded(param: str, text: str, most: int = MOST_CHARACTERS) -> str:
  if not text or len(text) > most:
    raise refused(param, f"{len(text)} characters", f"1 to {most}")
  return text
