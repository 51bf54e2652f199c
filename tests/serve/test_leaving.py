"""Clients that leave, or do not read, take nothing with them."""

import dataclasses
import json

import pytest

from tests.serve.raw_http import connect, post, read_all
from tests.serve.running import SERVER, running, wait_until

LONG = {"prompt": [5, 6, 7], "max_tokens": 250, "ignore_eos": True, "temperature": 0}


def streams(**fields) -> bytes:
  return post("/v1/completions", LONG | {"stream": True} | fields)


def test_a_client_that_leaves_a_stream_ends_its_requests(serving):
  before = serving.server._served.metrics.ended["left"]
  with connect(serving.url) as client:
    client.sendall(streams(n=4, logprobs=1))
    assert b"200 OK" in client.recv(2**16)
  assert serving.idle()
  ended = serving.server._served.metrics.ended
  assert ended["left"] - before == 4
  assert serving.serves()


def test_a_client_that_leaves_before_its_answer_ends_its_requests(serving):
  serving.engine.pause()
  with connect(serving.url) as client:
    client.sendall(post("/v1/completions", LONG))
    wait_until(lambda: serving.engine.stats().waiting == 1)
  wait_until(lambda: serving.engine.stats().waiting == 0)
  serving.engine.resume()
  assert serving.idle()
  assert serving.serves()


@pytest.mark.parametrize("clients", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_clients_that_leave_hold_nothing(serving, clients):
  sent = [streams(), post("/v1/completions", LONG), streams(n=3), post("/v1/completions", LONG)[:150], b"POST /v1"]
  for first in range(0, clients, 60):
    here = [connect(serving.url) for _ in range(min(60, clients - first))]
    for number, client in enumerate(here):
      client.sendall(sent[number % len(sent)])
    here[0].recv(1)
    for client in here:
      client.close()
  assert serving.serves()
  # Whatever came late has been seen to leave once the server has no task.
  wait_until(lambda: not serving.server.server_state.tasks)
  assert serving.idle()


def test_a_client_that_reads_slowly_gets_all_of_it_in_fewer_events():
  with running(sndbuf=4096) as serving, connect(serving.url, rcvbuf=4096) as client:
    client.sendall(post("/v1/completions", LONG | {"stream": True, "logprobs": 20}, "connection: close"))
    # Nothing is read while the text is made: what does not fit the buffers waits in the server, as one event.
    wait_until(lambda: serving.engine.core.log.rows >= 249)
    answer = read_all(client)
  events = [json.loads(line[6:]) for line in answer.split(b"\n") if line.startswith(b"data: {")]
  tokens = [token for event in events for token in event["choices"][0]["logprobs"]["tokens"]]
  assert len(tokens) == 250
  assert len(events) < 250
  assert answer.count(b"[DONE]") == 1


def test_a_client_that_does_not_read_is_dropped():
  settings = dataclasses.replace(SERVER, reader_seconds=0.1)
  with running(settings, sndbuf=4096) as serving, connect(serving.url, rcvbuf=4096) as client:
    client.sendall(streams(n=4, logprobs=20))
    wait_until(lambda: serving.engine.core.log.rows > 0)
    wait_until(lambda: not serving.server.server_state.tasks)
    assert serving.idle()
    assert b"[DONE]" not in read_all(client)
    assert serving.serves()
