"""Grammars of calls: whatever text they allow is read back as calls of the tools, with arguments that validate."""

import contextlib
import functools
import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import lynx_jax
from lynx_jax.text.call_grammars import call_grammar
from lynx_jax.text.grammar import Grammar, Grammars, as_lark
from lynx_jax.text.tokenizer import Tokenizer
from lynx_jax.text.tool_calls import Call, Tools
from lynx_jax.text.turn_events import Content, Reasoning, joined
from lynx_jax.text.turn_formats import REASONING_FORMATS, TOOL_FORMATS, TurnFormat
from lynx_jax.text.turn_grammar import turn_grammar
from lynx_jax.text.turn_parser import turn_parser

VOCAB = 4096
TOOLS: dict[str, Any] = {
  "get_weather": {
    "type": "object",
    "properties": {
      "city": {"type": "string", "enum": ["Oslo", "Rome"]},
      "days": {"$ref": "#/$defs/days"},
      "units": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
      "more": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[a-z]{0,3}$"}]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 99}},
  },
  "now": {},
  "set.it-2": {"type": "object", "properties": {"to": {"type": "boolean"}}, "additionalProperties": False},
}


@functools.cache
def tokenizer() -> Tokenizer:
  assert lynx_jax.__file__ is not None
  found = Tokenizer.from_directory(Path(lynx_jax.__file__).parent / "embedded")
  assert found is not None
  return found


@functools.cache
def grammars() -> Grammars:
  return Grammars(tokenizer(), VOCAB)


def sample(grammar: Grammar, rng: random.Random, most: int = 600) -> str | None:
  """Some text that a grammar allows, by random tokens; None if that is long."""
  state, tokens = grammar.start(), []
  while len(tokens) < most:
    bits = np.unpackbits(np.frombuffer(state.allowed(), np.uint8), bitorder="little")
    allowed = [int(token) for token in np.flatnonzero(bits[:VOCAB]) if token not in tokenizer().special_ids]
    if not allowed or (state.may_end() and rng.random() < 0.5):
      break
    tokens.append(rng.choice(allowed))
    state.advance(tokens[-1])
  return tokenizer().decode(tokens) if state.may_end() else None


def usable(form: str) -> Tools:
  # Python has other names.
  python = form in ("llama4_pythonic", "lfm2")
  return {name: schema for name, schema in TOOLS.items() if "-" not in name or not python}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_what_a_grammar_allows_is_read_as_calls(name, several):
  form, tools = TOOL_FORMATS[name], usable(name)
  grammar = grammars().lark(call_grammar(form, tools, grammars().mark, several=several))
  rng, counts = random.Random(0), []
  for text in [found for _ in range(16) if (found := sample(grammar, rng)) is not None]:
    parser = turn_parser(TurnFormat(form, None), tools, "")
    events = joined(parser.feed(text) + parser.end())
    calls = [event for event in events if isinstance(event, Call)]
    assert calls == events, text
    counts.append(len(calls))
    for call in calls:
      arguments = json.loads(call.arguments)
      jsonschema.validate(arguments, TOOLS[call.name] or {"type": "object", "maxProperties": 0})
  assert len(counts) > 8
  assert (max(counts) > 1) == (several and form.parallel)


@pytest.mark.parametrize("reasoning", ["think", "mistral", "harmony"])
@pytest.mark.parametrize("prompt", ["ask", "ask<think>\n", "ask[THINK]", "ask<think>\n\n</think>\n\n"])
def test_an_answer_has_its_form_after_any_reasoning(reasoning, prompt):
  channels = reasoning == "harmony"
  form = TurnFormat(TOOL_FORMATS["harmony" if channels else "hermes"], REASONING_FORMATS[reasoning])
  calls = call_grammar(TOOL_FORMATS["harmony" if channels else "hermes"], TOOLS, grammars().mark, several=False)
  text = turn_grammar(form, grammars().mark, answer="start: /[0-9]{2}/", calls=calls, prompt=prompt)
  state = grammars().lark(text).start()
  # What the model thinks is free, so it is given here.
  opened = prompt.endswith((form.reasoning.opens, form.reasoning.opens + "\n")) if form.reasoning else False
  closed = prompt.rstrip().endswith("</think>") and reasoning == "think"
  begin = "" if opened else form.reasoning.opens if form.reasoning else ""
  thought = "" if closed else f"{begin}So 1 < 2.{form.reasoning.closes if form.reasoning else ''}"
  head = "<|channel|>final<|message|>" if channels else ""
  between = "<|start|>assistant" if channels else ""
  written = f"{thought}{between}{head}42"
  for token in tokenizer().encode(written, add_special_tokens=False):
    state.advance(token)
  assert state.may_end()
  parser = turn_parser(form, TOOLS, prompt)
  events = joined(parser.feed(written) + parser.end())
  assert events == ([] if closed else [Reasoning("So 1 < 2.")]) + [Content("42")]


def test_marks_that_are_special_tokens_are_tokens():
  assert grammars().mark("<|end|>") == f"<[{tokenizer().token_id('<|end|>')}]>"
  assert grammars().mark("<tool_call>") == '"<tool_call>"'
  text = f'start: {grammars().mark("<|end|>")} "a"'
  state = grammars().lark(text).start()
  end = tokenizer().token_id("<|end|>")
  assert end is not None
  bits = np.unpackbits(np.frombuffer(state.allowed(), np.uint8), bitorder="little")
  assert list(np.flatnonzero(bits)) == [end]
  # The text shows it where that is asked for.
  assert tokenizer().decode([end]) == ""
  assert tokenizer().showing(frozenset({end})).decode([end, *tokenizer().encode("a")]) == "<|end|>a"
  assert tokenizer().showing(frozenset()).decode([end, *tokenizer().encode("ab c")]) == "ab c"


def test_states_are_apart():
  grammar = grammars().choice(["one", "two"])
  first, second = grammar.start(), grammar.start()
  for token in tokenizer().encode("one", add_special_tokens=False):
    first.advance(token)
  assert first.may_end()
  assert not second.may_end()
  for token in tokenizer().encode("two", add_special_tokens=False):
    second.advance(token)
  assert second.may_end()
  with pytest.raises(ValueError, match=r"."):
    second.advance(tokenizer().encode("x", add_special_tokens=False)[0])


@pytest.mark.parametrize("text", ["start: nothing", "start: (", "%%", "start: " + "(" * 9999, "x" * 70_000])
def test_grammars_that_cannot_be_read_say_why(text):
  with pytest.raises(ValueError, match=r".") as refused:
    grammars().lark(text)
  assert len(str(refused.value)) < 600


@pytest.mark.parametrize("text", ["root ::= nothing", 'root ::= "a', "a ::= b", "root ::= " + "(" * 5000])
def test_grammars_of_llama_cpp_say_what_is_wrong(text):
  with pytest.raises(ValueError, match=r"."):
    as_lark(text)


def test_names_that_a_format_cannot_write_are_refused():
  tools = {"f": {"type": "object", "properties": {"a-b": {}}}}
  with pytest.raises(ValueError, match="an argument of f is 'a-b'"):
    call_grammar(TOOL_FORMATS["llama4_pythonic"], tools, grammars().mark, several=False)
  with pytest.raises(ValueError, match="an argument of a tool is 'a>b'"):
    call_grammar(TOOL_FORMATS["qwen_xml"], {"f": {"properties": {"a>b": {}}}}, grammars().mark, several=False)


@pytest.mark.parametrize("name", ["qwen_xml", "glm", "lfm2", "hermes"])
@pytest.mark.parametrize(
  "schema",
  [
    {"properties": [1]}, {"properties": {"a": 3}}, {"required": 5, "properties": {"a": {}}}, {"type": "objekt"},
    {"properties": {"a": {"type": "string", "enum": 5}}}, {"properties": {"a": {"$ref": "#/$defs/b"}}}, {"anyOf": 3},
  ],
)  # fmt: skip
def test_schemas_that_are_none_raise_value_errors_alone(name, schema):
  tools: Any = {"f": schema}
  with contextlib.suppress(ValueError):
    grammars().lark(call_grammar(TOOL_FORMATS[name], tools, grammars().mark, several=True))


def test_generate_follows_a_grammar():
  params = lynx_jax.load(dtype="float32")
  schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3}
  assert params.tokenizer is not None
  rules = [Grammars(params.tokenizer, params.spec.vocab).json(schema), None]
  done = lynx_jax.generate(params, ["It is", "It is"], max_new_tokens=24, constraint=rules)
  jsonschema.validate(json.loads(done[0].text), schema)
  assert done[0].finish_reason == "stop"
  assert done[1].text == lynx_jax.generate(params, ["It is"], max_new_tokens=24)[0].text
