"""Answers of a form: whatever the model would like to say, they parse and validate; what cannot be is refused."""

import concurrent.futures
import functools
import json
import re

import jsonschema
import numpy as np
import pydantic
import pytest

from tests.serve.running import MODEL, tokenizer, wait_until
from tests.serve.test_openai_client import CHAT, _logprobs, chat, complete

PERSON = {
  "type": "object",
  "properties": {
    "name": {"type": "string", "maxLength": 8},
    "age": {"type": "integer", "minimum": 0, "maximum": 120},
    "kind": {"enum": ["cat", "dog", None]},
  },
  "required": ["name", "age", "kind"],
  "additionalProperties": False,
}
NODE = {
  "type": "object",
  "properties": {
    "value": {"type": "integer", "minimum": 0, "maximum": 9},
    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
  },
  "required": ["value", "next"],
  "additionalProperties": False,
}
SCHEMAS = [
  PERSON,
  {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
  {"type": "object", "properties": {"at": {"type": "string", "format": "date"}}, "required": ["at"],
   "additionalProperties": False},
  {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
  {"type": "string", "pattern": "^[ab]{3}$"},
  {"anyOf": [{"const": {"a": [1, "é"]}}, {"type": "number", "minimum": 0.5, "maximum": 2}]},
]  # fmt: skip


def json_schema(schema, **fields) -> dict:
  return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True} | fields}


@pytest.mark.parametrize("schema", range(len(SCHEMAS)))
def test_every_answer_validates(serving, schema):
  schema = SCHEMAS[schema]
  answer = chat(serving, response_format=json_schema(schema), temperature=1.0, n=4, seed=3, max_tokens=120)
  ended = [choice for choice in answer.choices if choice.finish_reason == "stop"]
  assert ended
  for choice in ended:
    jsonschema.validate(json.loads(choice.message.content), schema)
  for choice in answer.choices:
    assert choice.finish_reason in ("stop", "length")


def test_pydantic_models_are_parsed_by_the_client(serving):
  class Person(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    age: int = pydantic.Field(ge=0, le=9)
    likes: list[bool] = pydantic.Field(min_length=1, max_length=2)

  answer = serving.openai.chat.completions.parse(
    model=MODEL, messages=CHAT, response_format=Person, temperature=1.0, seed=1, max_tokens=80
  )
  (choice,) = answer.choices
  assert isinstance(choice.message.parsed, Person)


def test_a_streamed_form_joins_to_the_whole_one(serving):
  asked = {"response_format": json_schema(PERSON), "max_tokens": 80}
  whole = chat(serving, **asked).choices[0]
  chunks = [chunk.choices[0] for chunk in chat(serving, stream=True, **asked)]
  assert "".join(chunk.delta.content or "" for chunk in chunks) == whole.message.content
  assert [chunk.finish_reason for chunk in chunks][-1] == whole.finish_reason == "stop"
  jsonschema.validate(json.loads(whole.message.content), PERSON)


def test_any_object_is_an_object(serving):
  answer = chat(serving, response_format={"type": "json_object"}, temperature=1.0, n=2, seed=5, max_tokens=60)
  for choice in answer.choices:
    assert choice.message.content.startswith("{")
    if choice.finish_reason == "stop":
      assert isinstance(json.loads(choice.message.content), dict)


FORMS = [
  ({"guided_regex": "[0-9]{3}-(ab|cd)/x"}, re.compile("[0-9]{3}-(ab|cd)/x")),
  ({"structured_outputs": {"regex": "é+ ?[A-Z]{2,4}\\.$"}}, re.compile("é+ ?[A-Z]{2,4}\\.")),
  ({"guided_choice": ["yes", "no", 'no, "never"/\n']}, re.compile('yes|no|no, "never"/\n')),
  ({"structured_outputs": {"choice": ["a", "ab", "abc"]}}, re.compile("a|ab|abc")),
  ({"guided_grammar": 'start: WORD (" " WORD){2}\nWORD: /[a-z]{1,3}/'}, re.compile("[a-z]{1,3}( [a-z]{1,3}){2}")),
  ({"structured_outputs": {"grammar": 'root ::= "x" [0-9]+ ("," [0-9])*'}}, re.compile("x[0-9]+(,[0-9])*")),
  ({"guided_json": json.dumps({"type": "boolean"})}, re.compile("true|false")),
  ({"structured_outputs": {"json": {"type": "null"}}}, re.compile("null")),
]


@pytest.mark.parametrize(("asked", "form"), FORMS)
def test_texts_match_what_vllms_fields_ask_for(serving, asked, form):
  for choice in complete(serving, "It is", temperature=1.0, n=4, seed=2, max_tokens=40, extra_body=asked).choices:
    if choice.finish_reason == "stop":
      assert form.fullmatch(choice.text)
  for choice in chat(serving, temperature=1.0, n=2, seed=2, max_tokens=40, extra_body=asked).choices:
    if choice.finish_reason == "stop":
      assert form.fullmatch(choice.message.content)


def test_others_draw_what_they_draw_alone(serving):
  asked = {"temperature": 1.0, "seed": 9, "max_tokens": 12}
  alone = complete(serving, "Once upon", **asked).choices[0].text
  serving.engine.pause()
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    plain = pool.submit(complete, serving, "Once upon", **asked)
    formed = pool.submit(complete, serving, "It is", extra_body={"guided_regex": "[a-z]{20}"}, max_tokens=30)
    wait_until(lambda: serving.engine.stats().waiting == 2)
    serving.engine.resume()
  assert plain.result().choices[0].text == alone
  assert re.fullmatch("[a-z]{20}", formed.result().choices[0].text)


def test_log_probabilities_are_the_models_own(serving):
  """They say what the model would have drawn, and not what the form left of it."""
  given = complete(
    serving, "It is", logprobs=3, max_tokens=6, extra_body={"guided_regex": "[0-9]{40}", "return_token_ids": True}
  ).choices[0]
  prompt, drawn = given.prompt_token_ids, given.token_ids
  expected = _logprobs((*prompt, *drawn))[len(prompt) - 1 : -1]
  np.testing.assert_allclose(given.logprobs.token_logprobs, expected[np.arange(len(drawn)), drawn], atol=1e-4)
  assert max(given.logprobs.token_logprobs) < -1
  first = max(given.logprobs.top_logprobs[0].items(), key=lambda item: item[1])[0]
  assert first == tokenizer().decode([int(np.argmax(expected[0]))])


DEEP = functools.reduce(lambda inner, _: {"properties": {"a": inner}}, range(300), {"type": "object"})
REFUSED = [
  ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
  ({"response_format": {"type": "xml"}}, "response_format.type"),
  ({"response_format": json_schema("no schema")}, "response_format.json_schema.schema"),
  ({"response_format": json_schema({"type": "objekt"})}, "response_format.json_schema.schema"),
  ({"response_format": json_schema({"$ref": "#/$defs/none"})}, "response_format.json_schema.schema"),
  ({"response_format": json_schema({"$ref": "http://example.com/a"})}, "response_format.json_schema.schema"),
  ({"response_format": json_schema({"type": "array", "uniqueItems": True})}, "response_format.json_schema.schema"),
  ({"response_format": json_schema({"type": "array", "contains": {}})}, "response_format.json_schema.schema"),
  ({"response_format": json_schema({"type": "string", "pattern": "(?<=a)b"})}, "response_format.json_schema.schema"),
  ({"response_format": json_schema({"type": "string", "pattern": "("})}, "response_format.json_schema.schema"),
  ({"response_format": json_schema({"enum": ["x" * 70_000]})}, "response_format.json_schema.schema"),
  ({"response_format": json_schema(False)}, "response_format.json_schema.schema"),
  ({"guided_json": "{"}, "guided_json"),
  ({"guided_json": 3}, "guided_json"),
  ({"guided_regex": "("}, "guided_regex"),
  ({"guided_regex": ""}, "guided_regex"),
  ({"guided_regex": "a", "guided_json": {}}, "guided_regex"),
  ({"guided_choice": []}, "guided_choice"),
  ({"guided_choice": [""]}, "guided_choice"),
  ({"guided_grammar": "start: nothing"}, "guided_grammar"),
  ({"guided_grammar": "root ::= nothing"}, "guided_grammar"),
  ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
  ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
  ({"guided_regex": "a", "ignore_eos": True}, None),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_forms_that_cannot_be_are_refused(serving, fields, param):
  for path, asked in (("/v1/completions", {"prompt": "a"}), ("/v1/chat/completions", {"messages": CHAT})):
    answer = serving.http.post(path, json={"max_tokens": 8} | asked | fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert len(error["message"]) < 1000


def test_a_deep_schema_is_served_or_refused(serving):
  answer = serving.http.post("/v1/completions", json={"prompt": "a", "max_tokens": 2, "guided_json": DEEP})
  assert answer.status_code in (200, 400)
  assert serving.serves()


def test_unknown_keywords_are_left_out_where_less_is_promised(serving):
  schema = {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "maxItems": 2}
  answer = chat(serving, response_format=json_schema(schema, strict=False), max_tokens=40)
  assert isinstance(json.loads(answer.choices[0].message.content), list)


def test_a_grammar_is_compiled_once(serving):
  made = serving.server._served.grammars()
  before = made._compiled.cache_info()
  for _ in range(3):
    complete(serving, "It is", extra_body={"guided_regex": "[xyz]{4}"})
  after = made._compiled.cache_info()
  assert (after.misses - before.misses, after.hits - before.hits) == (1, 2)


def test_a_form_that_becomes_too_complex_ends_its_request_alone(serving):
  """What comes after the first words has an automaton without bounds."""
  grammar = 'start: "one two three four " TEXT\nTEXT: /(a?){2000}a{2000}/'
  asked = {"prompt": "It is", "max_tokens": 120, "guided_grammar": grammar, "temperature": 0}
  answer = serving.http.post("/v1/completions", json=asked)
  assert answer.status_code == 400
  error = answer.json()["error"]
  assert error["code"] == "constraint_failed"
  assert "the constraint's" in error["message"]
  assert serving.serves()
