"""`bench serve` against our own server, and against servers that are none."""

import dataclasses
import json
import socket

import pytest

from lynx_jax.engine.settings import EngineSettings
from tests.command_line import run
from tests.serve.running import MODEL, SIZES, running

SMALL = ("--requests", 6, "--prompt-length", "3:9", "--output-length", "4:6", "--warm-up", 1)


def test_a_load_is_served_and_counted(capsys, serving, tmp_path):
  code, out, _ = run(
    capsys, "bench", "serve", "--url", serving.url, *SMALL, "--clients", "1,4", "--slo", "e2e=600000", "--json",
    tmp_path / "found.json",
  )  # fmt: skip
  assert code == 0
  assert "all, 1 clients" in out
  found = json.loads((tmp_path / "found.json").read_text())
  assert found["shared"]["model"] == MODEL
  for load in found["loads"]:
    assert (load["requests"], load["failed"], load["good"]) == (6, {}, 6)
    assert 6 * 3 <= load["prompt_tokens"] <= 6 * 9
    assert 6 * 4 <= load["output_tokens"] <= 6 * 6
    assert 0 < load["ttft_ms"]["p50"] <= load["ttft_ms"]["p99"] <= load["e2e_ms"]["p99"]
  first, second = found["loads"]
  assert (first["prompt_tokens"], first["output_tokens"]) == (second["prompt_tokens"], second["output_tokens"])
  assert serving.idle()


def test_conversations_of_a_file_arrive_in_time(capsys, serving, tmp_path):
  path = tmp_path / "prompts.jsonl"
  line = {"messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True, "temperature": 0}
  path.write_text(json.dumps(line) + "\n")
  code, _, _ = run(
    capsys, "bench", "serve", "--url", f"{serving.url}/v1", "--prompts", path, "--requests", 3, "--output-length", 5,
    "--arrivals", "bursts:size=1,every=0.05", "--extra-body", '{"quality": "economy"}',
    "--json", tmp_path / "found.json",
  )  # fmt: skip
  (load,) = json.loads((tmp_path / "found.json").read_text())["loads"]
  assert code == 0
  assert (load["requests"], load["failed"], load["output_tokens"]) == (3, {}, 15)
  assert load["seconds"] >= 0.1


def test_refusals_are_counted_by_what_they_say(capsys, tmp_path):
  sizes: EngineSettings = dataclasses.replace(SIZES, most_waiting=1)
  with running(sizes=sizes) as serving:
    # One request may wait: two samples never can.
    lines = [{"prompt": [5, 6], "max_tokens": 2, "ignore_eos": True, "n": n} for n in (1, 2)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, _ = run(capsys, "bench", "serve", "--url", serving.url, "--prompts", path, "--warm-up", 0)
  assert code == 0
  assert "1 failed: 503 " in out


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--requests", 0), "--requests is 0: expected a whole number of at least 1"),
    (("--output-length", "9:3"), "--output-length is 9: expected a whole number from 1 to 3"),
    (("--token-ids", "x"), "--token-ids is 'x'"),
    (("--arrivals", "soon"), "arrivals is 'soon'"),
    (("--clients", "1,0"), "--clients is '1,0': expected whole numbers"),
    (("--extra-body", "[1]"), "--extra-body is '[1]': expected a JSON object"),
    (("--slo", "fast"), "--slo is 'fast'"),
    (("--prompts", "/none/such"), "/none/such"),
  ],
)
def test_bad_flags_are_one_line(capsys, flags, message):
  code, out, err = run(capsys, "bench", "serve", "--model", "m", *flags)
  assert (code, out) == (2, "")
  assert message in err
  assert len(err.splitlines()) == 1


def test_where_there_is_no_server(capsys):
  with socket.socket() as closed:
    closed.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    code, out, err = run(capsys, "bench", "serve", "--url", url, *SMALL)
    assert (code, out) == (2, "")
    assert f"no server at {url}" in err
    assert "lynx-jax serve" in err
    code, out, err = run(capsys, "bench", "serve", "--url", url, "--model", "m", *SMALL)
    assert code == 2
    assert "no request got an answer: ConnectError" in err


def test_a_wrong_key_is_said(capsys, serving):
  code, _, err = run(capsys, "bench", "serve", "--url", serving.url, "--model", "gpt-9", *SMALL)
  assert code == 2
  assert "no request got an answer: 404 " in err
