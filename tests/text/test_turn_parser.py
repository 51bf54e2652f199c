"""Turns taken apart: as the families' own templates write them, however they are cut, and whatever they hold."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from lynx_jax.text.template import render
from lynx_jax.text.tool_calls import Call, deepseek_mark
from lynx_jax.text.turn_events import Content, Event, Reasoning, joined
from lynx_jax.text.turn_formats import REASONING_FORMATS, TOOL_FORMATS, TurnFormat, turn_format
from lynx_jax.text.turn_parser import turn_parser

TOOLS: dict[str, Any] = {
  "get_weather": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
  "now": {},
}
SHOWN = [
  {"type": "function", "function": {"name": name, "description": "It tells.", "parameters": schema or {
    "type": "object", "properties": {},
  }}}
  for name, schema in TOOLS.items()
]  # fmt: skip
ARGUMENTS = {"city": 'São Paulo, "SP" </b>\n', "days": 3}
USER = {"role": "user", "content": "What is the weather?"}


def templates() -> Path:
  spec = importlib.util.find_spec("trl")
  assert spec is not None
  assert spec.submodule_search_locations
  return Path(spec.submodule_search_locations[0]) / "chat_templates"


def calls(*named: tuple[str, dict]) -> list[dict]:
  return [
    {"id": f"call{at:05}", "type": "function", "function": {"name": name, "arguments": arguments}}
    for at, (name, arguments) in enumerate(named)
  ]


def whole(form: TurnFormat, text: str, prompt: str = "", tools=TOOLS) -> list[Event]:
  parser = turn_parser(form, tools, prompt)
  return joined(parser.feed(text) + parser.end())


def named(tools: str | None, reasoning: str | None = None) -> TurnFormat:
  return turn_format(None, "", tools or "none", reasoning or "none")


# Template, family, the formats that it shows; whether it takes several calls, and what ends its turn.
RELEASED = [
  ("qwen3", "qwen3_moe", "hermes", "think", True, "<|im_end|>\n"),
  ("qwen2_5", "qwen2_moe", "hermes", None, True, "<|im_end|>\n"),
  ("qwen3_instruct_2507", "qwen3_moe", "hermes", None, True, "<|im_end|>\n"),
  ("qwen3_5_think", "qwen3_5_moe", "qwen_xml", "think", True, "<|im_end|>\n"),
  ("nemotron_3_nano", "nemotron", "qwen_xml", "think", True, "<|im_end|>\n"),
  ("glm4moe", "glm4_moe", "glm", "think", True, ""),
  ("deepseekv3", "deepseek_v3", "deepseek_v3", "think", True, "<\uff5cend\u2581of\u2581sentence\uff5c>"),
  ("gptoss", "gpt_oss", "harmony", "harmony", False, "<|call|>"),
  ("lfm2_2_5", "lfm2_moe", "lfm2", "think", True, "<|im_end|>\n"),
  ("llama3_1", "llama4_text", "llama_json", None, False, "<|eot_id|>"),
]


@pytest.mark.parametrize(("name", "family", "tools", "reasoning", "several", "end"), RELEASED)
def test_calls_that_a_template_writes_are_read_back(name, family, tools, reasoning, several, end):
  template = (templates() / f"{name}.jinja").read_text(encoding="utf-8")
  form = turn_format(template, family)
  assert form.tools is TOOL_FORMATS[tools]
  assert form.reasoning is (REASONING_FORMATS[reasoning] if reasoning else None)
  # A template writes line breaks into strings of Python.
  arguments = ARGUMENTS if tools != "lfm2" else ARGUMENTS | {"city": "Oslo"}
  made = [("get_weather", arguments), ("now", {})][: 2 if several else 1]
  variables: dict[str, Any] = {"tools": SHOWN, "bos_token": "", "eos_token": end}
  asked = calls(*made)
  if name == "deepseekv3":
    # It joins arguments as text.
    asked = [
      one | {"function": one["function"] | {"arguments": json.dumps(one["function"]["arguments"])}} for one in asked
    ]
  turn = {"role": "assistant", "content": "", "tool_calls": asked}
  prompt = render(template, [USER], variables | {"add_generation_prompt": True})
  text = render(template, [USER, turn], variables | {"add_generation_prompt": False})
  # Templates that begin the reasoning in the prompt leave it out of turns that are past.
  common = next((at for at, (a, b) in enumerate(zip(prompt, text, strict=False)) if a != b), len(prompt))
  common = text.rfind("<", 0, common) if text[:common].endswith("<") else common
  written = text[common:].removesuffix(end).removesuffix(end)
  found = whole(form, written, prompt[:common])
  assert [(one.name, json.loads(one.arguments)) for one in found if isinstance(one, Call)] == made
  assert not [one for one in found if isinstance(one, Content)]


def deepseek(text: str) -> str:
  """Text with DeepSeek's marks where they are named in brackets."""
  return re.sub(r"\[(calls? begin|calls? end|sep)\]", lambda found: deepseek_mark(found[1]), text)


WRITTEN = [
  ("mistral", '[TOOL_CALLS] [{"name": "now", "arguments": {}}, {"name": "get_weather", "arguments": {"days": 2}}]'),
  ("mistral_args", '[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{"days": 2}'),
  ("mistral_args", '[TOOL_CALLS]now{}[TOOL_CALLS]get_weather{"days": 2}'),
  ("granite", '<|tool_call|>[{"name": "now", "arguments": {}}, {"name": "get_weather", "arguments": {"days": 2}}]'),
  ("llama4_pythonic", "[now(), get_weather(days=2)]"),
  ("llama4_pythonic", "<|python_start|>[now(), get_weather(days=2)]<|python_end|>"),
  ("lfm2", "<|tool_call_start|>[now(), get_weather(days=2)]<|tool_call_end|>"),
  (
    "deepseek_v31",
    "[calls begin][call begin]now[sep]{}[call end][call begin]get_weather[sep]{\"days\": 2}[call end][calls end]",
  ),
  (
    "hermes",
    '<tool_call>{"name": "now"}</tool_call>'
    '<tool_call>[{"name": "get_weather", "parameters": "{\\"days\\": 2}"}]</tool_call>',
  ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), WRITTEN)
def test_calls_are_read_in_each_format(name, text):
  text = deepseek(text)
  assert whole(named(name), text) == [Call("now", "{}"), Call("get_weather", '{"days": 2}')]
  before = "Let me see.\n" if TOOL_FORMATS[name].begins is None else ""
  found = whole(named(name), before + text)
  assert found[-2:] == [Call("now", "{}"), Call("get_weather", '{"days": 2}')]
  assert found[:-2] == ([Content("Let me see.")] if before else [])
  # Without tools nothing is looked for.
  assert whole(named(name), text, tools={}) == [Content(text)]


def test_reasoning_is_kept_apart():
  form = named("hermes", "think")
  text = '<think>\nHmm. <tool_call>no</tool_call>\n</think>\n\nYes.\n<tool_call>{"name": "now"}</tool_call>\n'
  parts = [Reasoning("Hmm. <tool_call>no</tool_call>"), Content("Yes."), Call("now", "{}")]
  assert whole(form, text) == parts
  assert whole(form, text.removeprefix("<think>\n"), "...<think>\n") == parts
  # It comes first or not at all.
  assert whole(form, "So <think>this</think>") == [Content("So <think>this</think>")]
  assert whole(form, "fine", "<think>\n\n</think>\n\n") == [Content("fine")]
  assert whole(form, "<think>on and on ") == [Reasoning("on and on ")]
  assert whole(named(None, "mistral"), "[THINK]a[/THINK]b") == [Reasoning("a"), Content("b")]


CHANNELS = (
  "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
  "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
)


def test_channels_are_told_apart():
  form = named("harmony", "harmony")
  found = [Reasoning("Think."), Content("I look."), Call("get_weather", '{"days": 2}')]
  assert whole(form, CHANNELS + '{"days":2}') == found
  assert whole(form, CHANNELS + '{"days":2}<|call|>') == found
  swapped = ' to=functions.get_weather<|channel|>commentary json<|message|>{"days": 2}'
  assert whole(form, swapped) == found[-1:]
  assert whole(form, CHANNELS + "{days")[-1] == Content(
    "I look.<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{days"
  )
  assert whole(form, "<|channel|>final<|message|>Yes.<|return|>") == [Content("Yes.")]
  assert whole(form, "Just text.") == [Content("Just text.")]
  assert whole(named("harmony"), CHANNELS) == [Content("Think.I look."), Call("get_weather", "{}")]


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("hermes", '<tool_call>{"name": "now", "arguments": {}}'),
    ("hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": NaN}}</tool_call>'),
    ("hermes", "<tool_call>" + "[" * 100_000 + "</tool_call>"),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": ' + "9" * 5000 + "}}</tool_call>"),
    ("hermes", '<tool_call>{"name": ["now"], "arguments": {}}</tool_call> and </tool_call>'),
    ("qwen_xml", "<tool_call><function=now>what</function></tool_call>"),
    ("glm", "<tool_call>now<arg_key>a</tool_call>"),
    ("deepseek_v3", "[call begin]function[sep]now\n```json\n{]\n```[call end]"),
    ("mistral_args", "[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]what"),
    ("llama4_pythonic", "[now(1)]"),
    ("llama4_pythonic", "[now(**a)]"),
    ("llama4_pythonic", "[now(a=b)]"),
    ("llama4_pythonic", "[now(a=f'{1}')]"),
    ("llama4_pythonic", "[now(a=1+2)]"),
    ("llama4_pythonic", "[now(a=b'x')]"),
    ("llama4_pythonic", "[now(a=" + "[" * 5000 + "]" * 5000 + ")]"),
    ("llama4_pythonic", "[now(a=" + "-" * 5_000 + "1)]"),
    ("llama4_pythonic", "[now(a=" + "a." * 5_000 + "b)]"),
    ("llama4_pythonic", "[now(a=" + "1+" * 5_000 + "1)]"),
    ("llama4_pythonic", "[now](a link) [and more]"),
    ("llama_json", '{"name": "now"'),
    ("llama_json", '{"names": 1}'),
  ],
)
def test_what_is_no_call_is_text(name, text):
  text = deepseek(text)
  assert whole(named(name), text) == [Content(text)]


def test_a_call_after_a_mark_that_is_only_mentioned_is_found():
  text = 'I write <tool_call> now: <tool_call>{"name": "now", "arguments": {}}</tool_call>'
  assert whole(named("hermes"), text) == [Content("I write <tool_call> now:"), Call("now", "{}")]


def test_marks_inside_strings_are_text():
  body = json.dumps({"name": "get_weather", "arguments": {"city": '</tool_call> "\\'}})
  (call,) = whole(named("hermes"), f"<tool_call>\n{body}\n</tool_call>")
  assert isinstance(call, Call)
  assert json.loads(call.arguments) == {"city": '</tool_call> "\\'}


def test_values_are_read_as_the_tool_says():
  values = "<parameter=city>\n12\n</parameter>\n<parameter=days>\n12\n</parameter>\n"
  text = f"<tool_call>\n<function=get_weather>\n{values}</function>\n</tool_call>"
  (call,) = whole(named("qwen_xml"), text)
  assert isinstance(call, Call)
  assert json.loads(call.arguments) == {"city": "12", "days": 12}


def test_arguments_are_text_that_can_be_sent():
  (call,) = whole(named("hermes"), r'<tool_call>{"name": "now", "arguments": {"a": "\ud800"}}</tool_call>')
  assert isinstance(call, Call)
  assert call.arguments.encode() == rb'{"a": "\ud800"}'


def test_python_calls_take_literals_of_python_and_json():
  text = "[get_weather(city='a\\'b', days=-3, more=[1, (2.5, None), {'a': True, \"b\": false}], rest=null)]"
  (call,) = whole(named("llama4_pythonic"), text)
  assert isinstance(call, Call)
  expected = {"city": "a'b", "days": -3, "more": [1, [2.5, None], {"a": True, "b": False}], "rest": None}
  assert json.loads(call.arguments) == expected


def test_formats_are_named():
  with pytest.raises(ValueError, match="tool_format is 'hermez': expected one of hermes"):
    turn_format(None, "", "hermez")
  with pytest.raises(ValueError, match="reasoning_format is 'thinks'"):
    turn_format(None, "", None, "thinks")
  template = (templates() / "qwen3.jinja").read_text(encoding="utf-8")
  assert turn_format(template, "qwen3_moe", "none", "none") == TurnFormat(None, None)
  assert turn_format("{{ messages }}", "llama4_text") == TurnFormat(None, None)


FORMS = [
  TurnFormat(tools, reasoning)
  for tools in TOOL_FORMATS.values()
  for reasoning in (None, REASONING_FORMATS["think"])
  if tools.name != "harmony"
]
FORMS.append(named("harmony", "harmony"))
WORDS = st.from_regex(r"\AQ[a-z]{1,3}!\Z")
COMMON = [
  "<think>", "</think>", '{"name": "now", "arguments": {}}', '{"name": "get_weather", "arguments": {"city": "', '"}}',
  '"', "\\", "[now()]", "[", "{}", "\n", " ", "\n\n", "now", "<", "<|", "<tool_call", "function", "assistant",
  " to=functions.now", "commentary", "analysis", "final", "json", "<function=now>", "</function>",
  "<arg_key>a</arg_key><arg_value>1</arg_value>", "\n```json\n{}\n```",
]  # fmt: skip


@st.composite
def turns(draw) -> tuple[TurnFormat, list[str], bool]:
  form = draw(st.sampled_from(FORMS))
  parts = st.one_of(WORDS, st.sampled_from(COMMON), st.sampled_from([*form.marks, "<|call|>"]))
  return form, draw(st.lists(parts, max_size=14)), draw(st.booleans())


# Types are checked in the other tests; here that would be most of the time.
@pytest.mark.usefixtures("own_errors")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns(), st.data())
def test_pieces_do_not_matter_and_no_word_is_lost(turn, data):
  form, parts, opened = turn
  text = "".join(parts)
  prompt = "<think>\n" if opened else ""
  expected = whole(form, text, prompt)
  cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
  parser = turn_parser(form, TOOLS, prompt)
  found: list[Event] = []
  for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
    found += parser.feed(text[start:end])
  assert joined(found + parser.end()) == expected
  each = turn_parser(form, TOOLS, prompt)
  assert joined([event for character in text for event in each.feed(character)] + each.end()) == expected
  said = "".join(event.arguments if isinstance(event, Call) else event.text for event in expected)
  assert re.findall(r"Q[a-z]+!", said) == re.findall(r"Q[a-z]+!", text)
  for event in expected:
    if isinstance(event, Call):
      assert event.name in TOOLS
      assert isinstance(json.loads(event.arguments), dict)
