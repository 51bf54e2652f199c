"""A file of requests is answered as the server answers them, and a run that was cut off goes on."""

import asyncio
import json
import re

import pytest

from lynx_jax.serve.batch_file import BatchLine, answered_before, run_batch
from lynx_jax.serve.served import Served
from lynx_jax.serve.settings import ServerSettings
from tests.command_line import run
from tests.serve.running import MODEL, SIZES

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
EXACT = {"temperature": 0, "quality": "exact", "ignore_eos": True}
BODIES = [
  (TEXT, {"prompt": "The sun", "max_tokens": 5}),
  (CHAT, {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6}),
  (TEXT, {"prompt": [5, 6], "max_tokens": 3, "n": 2}),
  (TEXT, {"prompt": "é", "max_tokens": 2, "logprobs": 1}),
]


def line(index: int, path: str, fields: dict, **changes) -> str:
  return json.dumps({"custom_id": str(index), "method": "POST", "url": path, "body": fields | EXACT} | changes) + "\n"


LINES = [line(index, *given) for index, given in enumerate(BODIES)]


def outputs(path) -> dict[str, dict]:
  return {one["custom_id"]: one for one in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def flags():
  return ("--dtype", "float32", "--policy", "auto", "--slots", SIZES.slots, "--context", SIZES.context, "--quiet")


def test_a_file_gets_the_server_s_answers(capsys, serving, tmp_path):
  asked, answers = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
  wrong = {"prompt": "a", "max_tokens": 10**6}
  asked.write_text("".join(LINES) + "\n" + line(9, TEXT, wrong))
  code, out, err = run(capsys, "batch", asked, answers, *flags())
  assert (code, out, err) == (0, "", "")
  found = outputs(answers)
  assert found.keys() == {"0", "1", "2", "3", "9"}
  for index, (url, body) in enumerate(BODIES):
    one = found[str(index)]
    expected = serving.http.post(url, json=body | EXACT).json()
    assert (one["response"]["status_code"], one["error"]) == (200, None)
    assert one["id"] == f"batch_req_{one['response']['request_id']}"
    got = one["response"]["body"]
    assert got["usage"] == expected["usage"] | {"prompt_tokens_details": got["usage"]["prompt_tokens_details"]}
    for choice, other in zip(got["choices"], expected["choices"], strict=True):
      assert choice.keys() == other.keys()
      assert (choice.get("text"), choice.get("message")) == (other.get("text"), other.get("message"))
  refused = found["9"]["response"]
  assert refused["status_code"] == 400
  assert refused["body"]["error"]["code"] == "context_length_exceeded"


def test_a_run_that_was_cut_off_goes_on(capsys, tmp_path):
  asked, answers = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
  asked.write_text("".join(LINES))
  done = json.dumps({"custom_id": "0", "response": {"note": "from before"}}) + "\n"
  answers.write_text(done + '{"custom_id": "1", "resp')
  code, _, err = run(capsys, "batch", asked, answers, *flags()[:-1])
  assert code == 0
  assert "3 answered, 0 failed, 1 were there before" in err
  assert answers.read_text(encoding="utf-8").startswith(done)
  assert outputs(answers).keys() == {"0", "1", "2", "3"}
  before = answers.read_bytes()
  code, _, err = run(capsys, "batch", asked, answers, *flags()[:-1])
  assert (code, answers.read_bytes()) == (0, before)
  assert "0 answered, 0 failed, 4 were there before" in err


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "an empty file"),
    ("[1]\n", "line 1 is '[1]': expected a JSON object"),
    (line(0, TEXT, {}) + line(0, TEXT, {}), "custom_id of FILE line 2 is '0': expected a name that no line before has"),
    (line(0, TEXT, {}, custom_id=3), "custom_id of FILE line 1 is 3: expected a string"),
    (line(0, TEXT, {}, method="GET"), "method of FILE line 1 is 'GET': expected 'POST'"),
    (line(0, "/v1/embeddings", {}), "url of FILE line 1 is '/v1/embeddings': expected one of"),
    (line(0, TEXT, {}, body=[]), "body of FILE line 1 is []: expected an object"),
    (line(0, TEXT, {"stream": True}), "stream of FILE line 1 is True: expected false"),
  ],
)
def test_a_file_is_checked_before_anything_runs(capsys, tmp_path, text, message):
  asked, answers = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
  asked.write_text(text)
  code, _, err = run(capsys, "batch", asked, answers, *flags())
  assert code == 2
  assert message.replace("FILE", str(asked)) in err
  assert not answers.exists()


def test_another_file_is_no_output(capsys, tmp_path):
  asked, answers = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
  asked.write_text(LINES[0])
  for text in ("notes\n", '{"a": 1}\n'):
    answers.write_text(text)
    code, _, err = run(capsys, "batch", asked, answers, *flags())
    assert code == 2
    assert str(answers) in err
    assert answers.read_text() == text
  assert answered_before(tmp_path / "none") == set()


def test_the_engine_s_failure_ends_the_run(serving, tmp_path, monkeypatch):
  failed = RuntimeError("the device is gone")
  served = Served(serving.engine, ServerSettings(model=MODEL, page=False))
  monkeypatch.setattr(served, "start", lambda compiling: None)
  monkeypatch.setattr(served, "state", "ready")
  monkeypatch.setattr(type(serving.engine), "failure", failed)
  answers = tmp_path / "out.jsonl"
  with pytest.raises(RuntimeError, match=re.escape("the engine has failed: the device is gone")):
    asyncio.run(run_batch(served, [BatchLine("0", TEXT, {"prompt": [5]})], answers, at_once=1))
  assert outputs(answers)["0"]["response"]["status_code"] >= 500
