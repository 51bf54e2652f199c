"""Requests that cannot be served get an error that names the field, and the next request is served."""

import contextlib
import dataclasses
import json
import threading
from typing import Any

import openai
import pytest

from tests.serve.raw_http import connect, post, read_all, status_and_error
from tests.serve.running import MODEL, params, running, tokenizer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TURN: Any = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
  ("path", "fields", "param"),
  [
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": "Hi"}, "messages"),
    (CHAT, {"messages": [{"role": "king", "content": "Hi"}]}, "messages.0.role"),
    (CHAT, {"messages": [TURN] * 5000}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages.0.content.0.type"),
    (CHAT, {"messages": [TURN], "n": 0}, "n"),
    (CHAT, {"messages": [TURN], "n": 65}, "n"),
    (CHAT, {"messages": [TURN], "n": True}, "n"),
    (CHAT, {"messages": [TURN], "max_tokens": "8"}, "max_tokens"),
    (CHAT, {"messages": [TURN], "max_tokens": 8, "max_completion_tokens": 9}, "max_tokens"),
    (CHAT, {"messages": [TURN], "temperature": -1}, "temperature"),
    (CHAT, {"messages": [TURN], "top_p": 2}, "top_p"),
    (CHAT, {"messages": [TURN], "top_logprobs": 21}, "top_logprobs"),
    (CHAT, {"messages": [TURN], "stop": ["a"] * 17}, "stop"),
    (CHAT, {"messages": [TURN], "stop": ""}, "stop"),
    (CHAT, {"messages": [TURN], "stop": ["a" * 1025]}, "stop.0"),
    (CHAT, {"messages": [TURN], "seed": 2**70}, "seed"),
    (CHAT, {"messages": [TURN], "presence_penalty": 3}, "presence_penalty"),
    (CHAT, {"messages": [TURN], "repetition_penalty": 0}, "repetition_penalty"),
    (CHAT, {"messages": [TURN], "min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    (CHAT, {"messages": [TURN], "logit_bias": {"x": 1}}, "logit_bias"),
    (CHAT, {"messages": [TURN], "logit_bias": {"5": 101}}, "logit_bias.5"),
    (CHAT, {"messages": [TURN], "logit_bias": {str(token): 1 for token in range(301)}}, "logit_bias"),
    (CHAT, {"messages": [TURN], "quality": "best"}, "quality"),
    (CHAT, {"messages": [TURN], "priority": 9}, "priority"),
    (CHAT, {"messages": [TURN], "stream_options": {"include_usage": True}}, "stream_options"),
    (CHAT, {"messages": [TURN], "functions": [{"name": "now"}]}, "functions"),
    (CHAT, {"messages": [TURN], "function_call": {"name": "now"}}, "function_call"),
    (CHAT, {"messages": [TURN], "chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
    (CHAT, {"messages": [TURN], "chat_template": "{{ 7 }}"}, "chat_template"),
    (CHAT, {"messages": [TURN], "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    (
      CHAT,
      {"messages": [TURN], "continue_final_message": True, "add_generation_prompt": True},
      "continue_final_message",
    ),
    (TEXT, {}, "prompt"),
    (TEXT, {"prompt": ""}, "prompt"),
    (TEXT, {"prompt": None}, "prompt"),
    (TEXT, {"prompt": []}, "prompt"),
    (TEXT, {"prompt": {"a": 1}}, "prompt"),
    (TEXT, {"prompt": ["a", 3]}, "prompt.1"),
    (TEXT, {"prompt": [[1], [1, True]]}, "prompt.1"),
    (TEXT, {"prompt": [4096]}, "prompt"),
    (TEXT, {"prompt": [-1]}, "prompt"),
    (TEXT, {"prompt": [1.5]}, "prompt"),
    (TEXT, {"prompt": ["a"] * 129}, "prompt"),
    (TEXT, {"prompt": ["a"] * 3, "n": 60}, "n"),
    (TEXT, {"prompt": "a", "best_of": 2}, "best_of"),
    (TEXT, {"prompt": "a", "suffix": "b"}, "suffix"),
    (TEXT, {"prompt": "a", "logprobs": 21}, "logprobs"),
    (TEXT, {"prompt": "a", "stop_token_ids": [-1]}, "stop_token_ids.0"),
    ("/tokenize", {}, "prompt"),
    ("/tokenize", {"prompt": "a", "messages": [TURN]}, "prompt"),
    ("/detokenize", {"tokens": [4096]}, "tokens"),
    ("/detokenize", {"tokens": [1] * 257}, "tokens"),
  ],
)  # fmt: skip
def test_a_field_that_is_wrong_is_named(serving, path, fields, param):
  answer = serving.http.post(path, json={"model": MODEL} | fields)
  assert answer.status_code == 400
  error = answer.json()["error"]
  assert error.keys() == {"message", "type", "param", "code"}
  assert error["type"] == "invalid_request_error"
  assert error["param"] == param
  assert param.split(".")[0] in error["message"]
  assert serving.serves()


@pytest.mark.parametrize(
  "fields",
  [
    {"prompt": [1] * 257, "max_tokens": 1},
    {"prompt": [1] * 200, "max_tokens": 57},
    {"prompt": [1] * 10**6},
    {"prompt": "a b " * 500},
    {"prompt": "x" * 10**6},
  ],
)
def test_what_does_not_fit_the_context_is_refused(serving, fields):
  answer = serving.http.post(TEXT, json=fields)
  assert answer.status_code == 400
  assert answer.json()["error"]["code"] == "context_length_exceeded"
  assert serving.serves()


def test_a_conversation_that_does_not_fit_is_refused(serving):
  with pytest.raises(openai.BadRequestError) as refused:
    serving.openai.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "a b " * 300}])
  assert refused.value.code == "context_length_exceeded"
  assert serving.serves()


@pytest.mark.parametrize(
  "body",
  [
    b"",
    b"{",
    b"[]",
    b"3",
    b'{"prompt": "a", "temperature": NaN}',
    b'{"prompt": "a", "temperature": 1e999}',
    b'{"prompt": "a", "max_tokens": ' + b"9" * 4000 + b"}",
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "a", "stop": "\\udc00"}',
    b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"prompt": "a", "model": "\\u0000\\ud800"}',
    "{}".encode("utf-16"),
    b"\xff\xfe",
  ],
)
def test_a_body_that_is_wrong_is_refused(serving, body):
  for path in (TEXT, CHAT):
    answer = serving.http.post(path, content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["type"] == "invalid_request_error"
  assert serving.serves()


def test_another_type_of_content_is_refused(serving):
  answer = serving.http.post(TEXT, content=b'{"prompt": "a"}', headers={"content-type": "text/plain"})
  assert answer.status_code == 400
  assert "JSON" in answer.json()["error"]["message"]


def test_unknown_fields_are_ignored_and_named(serving):
  answer = serving.http.post(TEXT, json={"prompt": "a", "max_tokens": 1, "zork": 1, "a\r\nx-evil: 1": 2, "user": "me"})
  assert answer.status_code == 200
  assert answer.headers["x-lynx-ignored"] == "zork, a??x-evil??1"
  assert "x-evil" not in answer.headers
  assert serving.http.post(TEXT, json={"prompt": "a", "tools": None, "logit_bias": {}, "suffix": ""}).status_code == 200


def test_unknown_paths_methods_and_models_are_refused(serving):
  assert serving.http.get("/v1/nothing").json()["error"]["code"] == "not_found"
  assert serving.http.get(TEXT).status_code == 405
  with pytest.raises(openai.NotFoundError) as refused:
    serving.openai.completions.create(model="gpt-9", prompt="a")
  assert refused.value.code == "model_not_found"


def test_a_long_body_is_refused_by_its_length_and_without_one(serving):
  long = json.dumps({"prompt": "x" * 9 * 2**20}).encode()
  answer = serving.http.post(TEXT, content=long, headers={"content-type": "application/json"})
  assert answer.status_code == 413
  assert answer.json()["error"]["code"] == "body_too_large"

  def parts():
    yield from (long[at : at + 2**20] for at in range(0, len(long), 2**20))

  answer = serving.http.post(TEXT, content=parts(), headers={"content-type": "application/json"})
  assert answer.status_code == 413
  assert serving.serves()


@pytest.mark.parametrize(
  "head",
  [
    b"hello\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 10**6,
    b"GET /" + b"b" * 10**6,
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10**5,
  ],
)
def test_what_is_no_request_is_refused(serving, head):
  with connect(serving.url) as client:
    # The server may have seen enough.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
      client.sendall(head)
    answer = read_all(client)
  # The kernel drops the answer where the client still sends.
  if answer:
    status, error = status_and_error(answer)
    assert status == 400
    assert error["type"] == "invalid_request_error"
  assert serving.serves()


def test_requests_one_behind_the_other_are_answered_in_order(serving):
  first = post(TEXT, {"prompt": [5, 6], "max_tokens": 40, "ignore_eos": True})
  second = post(TEXT, {"prompt": [5, 6], "max_tokens": 0}, "connection: close")
  with connect(serving.url) as client:
    client.sendall(first + second)
    answer = read_all(client)
  assert answer.index(b'"completion_tokens":40') < answer.index(b'"completion_tokens":0')


@pytest.mark.slow
def test_a_template_that_does_not_end_stalls_nobody():
  loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
  endless = dataclasses.replace(params(), tokenizer=dataclasses.replace(tokenizer(), chat_template=loops))
  with running(model=endless) as serving:
    refusals: list[openai.BadRequestError] = []

    def ask() -> None:
      with pytest.raises(openai.BadRequestError) as refused:
        serving.openai.chat.completions.create(model=MODEL, messages=[TURN])
      refusals.append(refused.value)

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
      thread.start()
    assert serving.serves()
    assert any(thread.is_alive() for thread in asking)
    for thread in asking:
      thread.join()
    assert [error.param for error in refusals] == ["messages"] * 3
    assert all("runs for more than" in str(error) for error in refusals)
