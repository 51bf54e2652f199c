"""Keys, pages of other origins, strictness, queues that are full, ends that lose nothing, metrics."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
from typing import Any, cast

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lynx_jax.engine.core import EngineDead
from tests.serve.raw_http import connect, post, read_all
from tests.serve.running import MODEL, SERVER, SIZES, running, wait_until

BODY: dict[str, Any] = {"model": MODEL, "prompt": [5, 6, 7], "max_tokens": 3, "temperature": 0}
KEYS = frozenset({"first-key", "second-key"})


@pytest.fixture(scope="module")
def guarded():
  settings = dataclasses.replace(SERVER, keys=KEYS, origins=("http://page.test",), strict=True, body_seconds=0.5)
  with running(settings, key="second-key") as server:
    yield server


@pytest.mark.parametrize("key", [None, "Bearer none", "Bearer first-ke", "Basic first-key", "first-key", "\xff"])
def test_without_a_key_nothing_but_probes_is_served(guarded, key):
  headers = {} if key is None else {"authorization": key.encode("latin-1")}
  with httpx.Client(base_url=guarded.url, headers=headers) as http:
    for answer in (http.post("/v1/completions", json=BODY), http.get("/v1/models"), http.post("/tokenize", json={})):
      assert answer.status_code == 401
      assert answer.json()["error"]["code"] == "invalid_api_key"
      assert answer.headers["www-authenticate"] == "Bearer"
    assert all(http.get(path).status_code == 200 for path in ("/health", "/ready", "/metrics", "/version"))
  assert guarded.serves()


def test_every_key_opens(guarded):
  for key in KEYS:
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=key) as client:
      assert client.completions.create(**BODY).usage.completion_tokens == 3
  with pytest.raises(ValueError, match="a key is"):
    dataclasses.replace(SERVER, keys=frozenset({"short"}))


def test_pages_of_allowed_origins_may_call(guarded, serving):
  def allowed(server, origin):
    asked = {
      "origin": origin,
      "access-control-request-method": "POST",
      "access-control-request-headers": "authorization",
    }
    return server.http.options("/v1/completions", headers=asked).headers.get("access-control-allow-origin")

  assert allowed(guarded, "http://page.test") == "http://page.test"
  assert allowed(guarded, "http://other.test") is None
  assert allowed(serving, "http://page.test") is None


def test_a_strict_server_refuses_unknown_fields(guarded):
  with pytest.raises(openai.BadRequestError) as refused:
    guarded.openai.completions.create(**BODY, extra_body={"zork": 1})
  assert (refused.value.param, refused.value.code) == ("zork", "unknown_field")
  assert guarded.serves()


def test_a_body_that_does_not_come_is_given_up(guarded):
  with connect(guarded.url) as client:
    client.sendall(post("/v1/completions", BODY, "authorization: Bearer first-key", "connection: close")[:-5])
    answer = read_all(client)
  assert answer.startswith(b"HTTP/1.1 408")
  assert b'"timeout"' in answer
  assert guarded.serves()


def test_a_full_queue_refuses_and_says_when_to_come_back():
  with running(sizes=dataclasses.replace(SIZES, most_waiting=2)) as serving:
    serving.engine.pause()
    texts: list[str] = []
    waiting = [
      threading.Thread(target=lambda: texts.append(serving.openai.completions.create(**BODY).choices[0].text))
      for _ in range(2)
    ]
    for thread in waiting:
      thread.start()
    wait_until(lambda: serving.engine.stats().waiting == 2)
    for _ in range(3):
      with pytest.raises(openai.InternalServerError) as refused:
        serving.openai.completions.create(**BODY)
      assert refused.value.status_code == 503
      assert refused.value.code == "overloaded"
      assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
    # All samples of a request wait, or none.
    with pytest.raises(openai.InternalServerError):
      serving.openai.completions.create(**BODY, n=2)
    assert serving.engine.stats().waiting == 2
    serving.engine.resume()
    for thread in waiting:
      thread.join()
    assert len(texts) == 2
    assert serving.serves()


def test_the_end_loses_no_answer_and_takes_no_request():
  with running() as serving:
    serving.engine.pause()
    texts: list[str] = []

    def stream() -> None:
      long: dict[str, Any] = BODY | {"max_tokens": 100}
      chunks = list(serving.openai.completions.create(**long, stream=True))
      assert chunks[-1].choices[0].finish_reason == "length"
      texts.append("".join(chunk.choices[0].text for chunk in chunks))

    threads = [threading.Thread(target=stream) for _ in range(6)]
    for thread in threads:
      thread.start()
    wait_until(lambda: serving.engine.stats().waiting == 6)
    serving.server.end()
    # The server drains: it still answers, and refuses.
    with connect(serving.url) as client:
      client.sendall(post("/v1/completions", BODY, "connection: close"))
      assert read_all(client).startswith(b"HTTP/1.1 503")
    assert serving.http.get("/ready").status_code == 503
    assert serving.http.get("/health").status_code == 200
    serving.engine.resume()
    for thread in threads:
      thread.join()
    assert len(texts) == 6
    assert len(set(texts)) == 1


def test_requests_that_outlast_the_end_are_told():
  with running(dataclasses.replace(SERVER, drain_seconds=0.0)) as serving:
    serving.engine.pause()
    reasons: list[str] = []

    def ask() -> None:
      reasons.append(serving.openai.completions.create(**BODY).choices[0].finish_reason)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: serving.engine.stats().waiting == 1)
    serving.server.end()
    thread.join()
    assert reasons == ["abort"]


def test_a_dead_engine_ends_streams_with_an_error_and_the_server(monkeypatch):
  with running() as serving:
    serving.engine.pause()
    errors: list[openai.APIError] = []

    def ask(stream: bool) -> None:
      try:
        answer = serving.openai.completions.create(**BODY, stream=stream)
        list(answer)
      except openai.APIError as error:
        errors.append(error)

    threads = [threading.Thread(target=ask, args=(stream,)) for stream in (True, False)]
    for thread in threads:
      thread.start()
    wait_until(lambda: serving.engine.stats().waiting == 2)

    def fail():
      raise EngineDead("the engine has failed twice in a row")

    monkeypatch.setattr(serving.engine.core, "step", fail)
    serving.engine.resume()
    for thread in threads:
      thread.join()
    assert [cast("Any", error.body)["message"] for error in errors] == ["the engine has failed twice in a row"] * 2
    wait_until(lambda: serving.server.failed)


def test_metrics_say_what_was_read_and_saved(serving):
  def values():
    families = text_string_to_metric_families(serving.http.get("/metrics").text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}

  before = values()
  fields: dict[str, Any] = BODY | {
    "max_tokens": 40,
    "n": 4,
    "temperature": 1,
    "seed": 1,
    "extra_body": {"quality": "economy"},
  }
  usage = serving.openai.completions.create(**fields).usage
  after = values()

  def grown(*name):
    return after[name] - before[name]

  assert (
    grown("lynx:decode_tokens_total", "economy") == usage.completion_tokens == grown("lynx:generation_tokens_total")
  )
  assert grown("lynx:decode_tokens_total", "exact") == 0
  ended = sum(grown("lynx:request_success_total", reason) for reason in ("stop", "length"))
  assert ended == 4 == grown("lynx:requests_accepted_total") == grown("lynx:time_to_first_token_seconds_count")
  assert grown("lynx:e2e_request_latency_seconds_count") == 4
  assert grown("lynx:experts_saved_total") == grown("lynx:experts_own_total") - grown("lynx:experts_active_total") > 0
  steps = grown("lynx:steps_total")
  assert steps == grown("lynx:step_seconds_count") >= 40
  assert grown("lynx:retained_mass_count") == steps - 1
  assert 0.5 < grown("lynx:retained_mass_sum") / grown("lynx:retained_mass_count") < 1
  assert after["lynx:recompiles_total",] == 0
  assert after["lynx:programs_ready",] == 4
  assert after["lynx:experts_budget",] == -1
  assert after["lynx:kv_blocks", "held"] == 0


@pytest.mark.slow
def test_sigterm_under_load_loses_no_accepted_answer():
  command = [sys.executable, "-m", "lynx_jax.cli", "serve", "--port", "0", "--slots", "4", "--context", "256"]
  with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
    assert process.stderr is not None
    url = next(found[0] for line in process.stderr if (found := re.findall(r"http://\S+/v1", line)))
    threading.Thread(target=process.stderr.read, daemon=True).start()
    counts: list[int] = []
    taken = threading.Semaphore(0)

    def ask() -> None:
      with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as client:
        stream = client.completions.create(
          model="lynx-embedded", prompt=[5, 6, 7], max_tokens=60, stream=True, stream_options={"include_usage": True},
          extra_body={"ignore_eos": True},
        )  # fmt: skip
        taken.release()
        counts.append(next(chunk.usage.completion_tokens for chunk in stream if chunk.usage))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
      thread.start()
    for _ in threads:
      taken.acquire()
    os.kill(process.pid, signal.SIGTERM)
    for thread in threads:
      thread.join()
    assert counts == [60] * 12
    assert process.wait(60) == 0


def test_a_key_has_a_limit_of_its_own():
  limited = dataclasses.replace(SERVER, keys=KEYS, most_per_key=2)
  with running(limited, key="first-key") as serving:
    serving.engine.pause()
    texts: list[str] = []
    threads = [
      threading.Thread(target=lambda: texts.append(serving.openai.completions.create(**BODY).choices[0].text))
      for _ in range(2)
    ]
    for thread in threads:
      thread.start()
    wait_until(lambda: serving.engine.stats().waiting == 2)
    with pytest.raises(openai.RateLimitError) as refused:
      serving.openai.completions.create(**BODY)
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.response.headers["retry-after"] == "1"
    # What costs nothing is answered, and so is another key.
    assert serving.http.get("/v1/models").status_code == 200
    second = {"authorization": "Bearer second-key"}
    assert httpx.post(f"{serving.url}/tokenize", json={"prompt": "a"}, headers=second).status_code == 200
    serving.engine.resume()
    for thread in threads:
      thread.join()
    assert len(texts) == 2
    assert serving.serves()
  with pytest.raises(ValueError, match="most_per_key is 2: expected None where no key is asked for"):
    dataclasses.replace(SERVER, most_per_key=2)


def test_a_request_that_waits_too_long_is_told():
  with running(dataclasses.replace(SERVER, wait_seconds=0.2)) as serving:
    serving.engine.pause()
    with pytest.raises(openai.APIStatusError) as late:
      serving.openai.completions.create(**BODY)
    assert late.value.status_code == 408
    assert late.value.code == "timeout"
    with pytest.raises(openai.APIError, match="no token came within"):
      list(serving.openai.completions.create(**BODY, stream=True))
    wait_until(lambda: serving.engine.stats().waiting == 0)
    serving.engine.resume()
    # A busy machine may take longer than that for any request, so none is asked for.
    assert serving.idle()
