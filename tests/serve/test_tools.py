"""Calls of tools and reasoning, as OpenAI's client sees them."""

import dataclasses
import functools
import json
from typing import Any

import jsonschema
import openai
import pytest

from tests.serve.running import MODEL, SERVER, params, running, tokenizer

# In the words of Qwen's template: what tools there are, how they are called, and that there may be reasoning.
TEMPLATE = (
  "{% if tools %}tools: {% for tool in tools %}{{ tool.function.name }} {% endfor %}"
  '<tool_call>{"name": N, "arguments": A}</tool_call><|end|>{% endif %}'
  "{% for m in messages %}{{ '<|user|>' if m.role != 'assistant' else '<|assistant|>' }}{{ m.content }}"
  "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
  "{% for call in m.tool_calls or () %}<tool_call>{{ call.function.name }} {{ call.function.arguments | tojson }}"
  "</tool_call>{% endfor %}{% if m.tool_call_id %}[{{ m.tool_call_id }}]{% endif %}<|end|>{% endfor %}"
  "{% if add_generation_prompt %}<|assistant|>{% if effort_shown %}{{ reasoning_effort }}{% endif %}{% endif %}"
)
PARAMETERS = {
  "type": "object",
  "properties": {"city": {"type": "string", "maxLength": 6}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
  "required": ["city", "days"],
  "additionalProperties": False,
}
TOOLS: Any = [
  {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}},
  {"type": "function", "function": {"name": "now", "description": "The time"}},
]
SCHEMAS = {"get_weather": PARAMETERS, "now": {"type": "object", "maxProperties": 0}}
USER: Any = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="module")
def tooled():
  """A server whose template knows tools and reasoning."""
  model = dataclasses.replace(params(), tokenizer=dataclasses.replace(tokenizer(), chat_template=TEMPLATE))
  with running(dataclasses.replace(SERVER, reasoning_format="none"), model=model) as server:
    yield server


@pytest.fixture(scope="module")
def thinking():
  """One that keeps reasoning apart as well."""
  model = dataclasses.replace(params(), tokenizer=dataclasses.replace(tokenizer(), chat_template=TEMPLATE))
  with running(model=model) as server:
    yield server


def chat(serving, **fields):
  asked = {"model": MODEL, "messages": [USER], "max_tokens": 130, "temperature": 0, "tools": TOOLS} | fields
  return serving.openai.chat.completions.create(**asked)


def forced(text: str) -> dict:
  """Makes the answer this text."""
  return {"extra_body": {"guided_choice": [text]}}


def streamed(serving, **fields):
  """A stream as its client joins it: content, reasoning, calls by index, and how it ended."""
  content, reasoning, calls, reasons = "", "", {}, []
  for chunk in chat(serving, stream=True, **fields):
    (choice,) = chunk.choices
    content += choice.delta.content or ""
    reasoning += getattr(choice.delta, "reasoning_content", None) or ""
    for call in choice.delta.tool_calls or ():
      if call.id is not None:
        assert call.index == len(calls)
        assert call.type == "function"
        calls[call.index] = [call.function.name, ""]
      calls[call.index][1] += call.function.arguments
    reasons += [choice.finish_reason] if choice.finish_reason else []
  assert len(reasons) == 1
  return content, reasoning, [tuple(call) for call in calls.values()], reasons[0]


def named(message) -> list[tuple[str, str]]:
  return [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]


def check(message, least=1) -> None:
  calls = named(message)
  assert len(calls) >= least
  for name, arguments in calls:
    jsonschema.validate(json.loads(arguments), SCHEMAS[name])
  assert len({call.id for call in message.tool_calls}) == len(calls)


def test_a_required_call_is_one_of_the_tools(tooled):
  answer = chat(tooled, tool_choice="required", temperature=1.0, n=4, seed=1)
  ended = [choice for choice in answer.choices if choice.finish_reason == "tool_calls"]
  assert ended
  for choice in ended:
    assert choice.message.content is None
    check(choice.message)
  assert {choice.finish_reason for choice in answer.choices} <= {"tool_calls", "length"}


@pytest.mark.parametrize("name", ["get_weather", "now"])
def test_a_named_tool_is_called(tooled, name):
  choice_of = {"type": "function", "function": {"name": name}}
  (choice,) = chat(tooled, tool_choice=choice_of).choices
  assert choice.finish_reason == "tool_calls"
  assert [call for call, _ in named(choice.message)] == [name]
  check(choice.message)
  assert streamed(tooled, tool_choice=choice_of) == ("", "", named(choice.message), "tool_calls")


def test_one_call_alone_where_several_are_not_wanted(tooled):
  for seed in range(3):
    (choice,) = chat(
      tooled, tool_choice="required", parallel_tool_calls=False, temperature=1.0, seed=seed
    ).choices  # fmt: skip
    if choice.finish_reason == "tool_calls":
      assert len(named(choice.message)) == 1


CALLS = (
  'I see.\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n'
  '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'
)


def test_calls_are_found_in_an_answer(tooled):
  (choice,) = chat(tooled, max_tokens=150, **forced(CALLS)).choices
  found = [("now", "{}"), ("get_weather", '{"city": "Oslo", "days": 2}')]
  assert choice.message.content == "I see."
  assert named(choice.message) == found
  assert choice.finish_reason == "tool_calls"
  assert streamed(tooled, max_tokens=150, **forced(CALLS)) == ("I see.", "", found, "tool_calls")
  # Its own accumulation of chunks.
  asked = {"model": MODEL, "messages": [USER], "max_tokens": 150, "temperature": 0, "tools": TOOLS}
  with tooled.openai.chat.completions.stream(**asked, **forced(CALLS)) as events:
    last = events.get_final_completion().choices[0]
  assert named(last.message) == found


@pytest.mark.parametrize("text", ['<tool_call>\n{"name": "no", "arguments": {}}\n</tool_call>', "<tool_call>\nno"])
def test_what_is_no_call_is_content(tooled, text):
  (choice,) = chat(tooled, max_tokens=80, **forced(text)).choices
  assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (text, None, "stop")
  assert streamed(tooled, max_tokens=80, **forced(text)) == (text, "", [], "stop")


def test_no_call_is_looked_for_where_none_may_be(tooled):
  (choice,) = chat(tooled, tool_choice="none", max_tokens=150, **forced(CALLS)).choices
  assert (choice.message.content, choice.message.tool_calls) == (CALLS, None)
  # Nor does the template hear of tools.
  assert prompt_of(tooled, tool_choice="none") == prompt_of(tooled, tools=openai.NOT_GIVEN)


def prompt_of(serving, **fields) -> str:
  given = chat(serving, **({"max_tokens": 1, "extra_body": {"return_token_ids": True}} | fields))
  return "".join(serving.server._served.texts.text_of(token) for token in given.prompt_token_ids)


def test_conversations_with_calls_reach_the_template(tooled):
  call: Any = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"a": 1}'}}
  messages: Any = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
    {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
  ]
  shown = prompt_of(tooled, messages=messages)
  assert shown.startswith('tools: get_weather now <tool_call>{"name": N')
  assert '<|assistant|><think>hm</think><tool_call>now {"a": 1}</tool_call><|end|>' in shown
  assert "<|user|>12:00[c1]<|end|><|assistant|>" in shown


def test_effort_and_variables_reach_the_template(tooled):
  shown = prompt_of(
    tooled, reasoning_effort="high",
    extra_body={"return_token_ids": True, "chat_template_kwargs": {"effort_shown": True}},
  )  # fmt: skip
  assert shown.endswith("<|assistant|>high")


OPENED: Any = [USER, {"role": "assistant", "content": "<think>"}]


def test_reasoning_is_apart(thinking):
  """The prompt ends inside the reasoning, and the model never closes it."""
  opened = {"messages": OPENED, "tools": openai.NOT_GIVEN, "max_tokens": 12}
  extra = {"continue_final_message": True}
  (choice,) = chat(thinking, extra_body=extra, **opened).choices
  assert choice.message.content == ""
  assert choice.message.reasoning_content
  joined = ("", choice.message.reasoning_content, [], choice.finish_reason)
  assert streamed(thinking, extra_body=extra, **opened) == joined
  # A form is for the answer: reasoning goes on before it.
  (choice,) = chat(thinking, extra_body=extra | {"guided_regex": "[0-9]+"}, **opened).choices
  assert choice.message.content == ""
  assert choice.message.reasoning_content


def test_an_answer_without_reasoning_is_of_its_form(thinking):
  closed: Any = [USER, {"role": "assistant", "content": "<think></think>"}]
  (choice,) = chat(
    thinking, messages=closed, max_tokens=40,
    extra_body={"continue_final_message": True, "guided_choice": ["So it is."]},
  ).choices  # fmt: skip
  assert choice.message.content == "So it is."


def parameters(schema) -> dict:
  return {"tools": [{"type": "function", "function": {"name": "a", "parameters": schema}}], "tool_choice": "required"}


DEEP = functools.reduce(lambda inner, _: {"a": inner}, range(400), {})
REFUSED = [
  ({"tools": [{"type": "function"}]}, "tools.0.function"),
  ({"tools": [{"type": "magic", "function": {"name": "a"}}]}, "tools.0.type"),
  ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
  ({"tools": TOOLS[:1] * 2}, "tools.1.function.name"),
  ({"tools": TOOLS * 65}, "tools"),
  ({"tool_choice": "required"}, "tool_choice"),
  ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice"),
  ({"tools": TOOLS, "tool_choice": 3}, "tool_choice"),
  ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice"),
  ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice.function.name"),
  (parameters({"type": "objekt"}), "tools"),
  (parameters(DEEP), "tools"),
  ({"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages.1.tool_calls.0.function"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_tools_that_cannot_be_are_refused(tooled, fields, param):
  answer = tooled.http.post("/v1/chat/completions", json={"messages": [USER], "max_tokens": 4} | fields)
  assert answer.status_code == 400, answer.text
  assert answer.json()["error"]["param"] == param
  assert tooled.serves()


def test_a_template_that_knows_no_tools_is_told_of_none(serving):
  with pytest.raises(openai.BadRequestError, match="--tool-format") as refused:
    chat(serving)
  assert refused.value.param == "tools"
