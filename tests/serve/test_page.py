"""The page's files and the events that it shows; `test_page_in_a_browser` is its user."""

import base64
import dataclasses
import json
import re

import httpx
import numpy as np

from lynx_jax.engine.paged.readers import ADAPTIVE, EXACT, OWN, PROMPTS
from lynx_jax.engine.step_log import StepLog, StepRecord
from lynx_jax.serve.page import page_files
from lynx_jax.serve.steps_feed import new_steps, summed_up
from lynx_jax.serve.wire import ExpertCounts
from tests.serve.running import MODEL, SERVER, SIZES, running


def test_the_page_is_served_and_may_load_nothing_from_elsewhere(serving):
  answer = serving.http.get("/")
  assert answer.status_code == 200
  assert answer.headers["content-type"] == "text/html; charset=utf-8"
  assert "default-src 'self'" in answer.headers["content-security-policy"]
  assert "unsafe" not in answer.headers["content-security-policy"]
  for name, data in page_files().items():
    answer = serving.http.get(f"/{name}")
    assert answer.content == data
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = serving.http.get(f"/{name}", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    # The namespace of SVG is a name, and no address that is loaded.
    text = data.decode().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//cdn|<script>|\son\w+=|innerHTML|insertAdjacent|eval\(|style=", text)
  assert serving.http.get("/../pyproject.toml").status_code == 404
  assert serving.http.post("/").status_code == 405


def test_files_are_small_enough_to_read():
  assert all(data.count(b"\n") < 300 for data in page_files().values())


def test_the_page_needs_no_key_but_what_it_asks_for_does():
  with running(dataclasses.replace(SERVER, keys=frozenset({"some-long-key"})), key="some-long-key") as guarded:
    with httpx.Client(base_url=guarded.url) as http:
      assert all(http.get(path).status_code == 200 for path in ("/", "/page.js", "/style.css"))
      assert all(http.get(f"/v1/lynx/{path}").status_code == 401 for path in ("about", "steps"))
    assert guarded.http.get("/v1/lynx/about").json()["model"] == MODEL


def test_a_server_may_have_no_page():
  with running(dataclasses.replace(SERVER, page=False)) as bare:
    assert all(bare.http.get(path).status_code == 404 for path in ("/", "/page.js", "/v1/lynx/steps"))
    assert bare.serves()


def test_about_says_how_requests_are_served(serving):
  about = serving.http.get("/v1/lynx/about").json()
  assert about == {"model": MODEL, "policy": "auto:share=0.5", "quality": "exact", "slots": SIZES.slots, "context": 256}


def test_steps_are_told_while_they_happen(serving):
  with serving.http.stream("GET", "/v1/lynx/steps") as answer:
    events = (json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:"))
    assert next(events)["running"] == 0
    body = {"model": MODEL, "prompt": [5, 6, 7], "max_tokens": 40, "ignore_eos": True, "temperature": 0}
    assert serving.http.post("/v1/completions", json=body | {"quality": "economy"}).status_code == 200
    told = []
    while sum(one["rows"] for one in told) < 39:
      told.append(next(events))
  spec = serving.engine.core.params.spec
  busy = [one for one in told if one["new"]]
  assert {(one["layers"], one["experts"]) for one in busy} == {(len(spec.moe_layers), spec.moe_specs[0].experts)}
  assert sum(one["chunk_tokens"] for one in told) == 3
  for one in busy:
    counts = {kind: np.frombuffer(base64.b64decode(text), np.uint8) for kind, text in one["counts"].items()}
    assert not counts["exact"].any()
    assert all(found.size == one["layers"] * one["experts"] for found in counts.values())
    assert (counts["adaptive"].astype(int) + counts["prompts"]).sum() > 0
    assert 0 < one["read"] <= one["experts"]
  assert serving.idle()


def record(**changes) -> StepRecord:
  usual = {
    "rows": 2, "chunk_tokens": 0, "program": "", "limit": None, "seconds": 0.25, "experts": (2, 1), "own_experts": (),
    "retained": 1.0,
  }  # fmt: skip
  return StepRecord(**(usual | changes))


def bits(counts: ExpertCounts) -> dict[str, list[int]]:
  return {name: [*base64.b64decode(getattr(counts, name))] for name in ("prompts", "exact", "adaptive", "saved")}


def test_steps_are_summed_up():
  first = np.array([[PROMPTS | OWN, ADAPTIVE, OWN], [EXACT | ADAPTIVE | OWN, 0, 0]], np.uint8)
  second = np.array([[0, ADAPTIVE | OWN, 0], [OWN, 0, EXACT | OWN]], np.uint8)
  made = summed_up(
    [record(readers=first, own_experts=(2, 1), retained=0.5), record(readers=second, experts=(1, 2), seconds=0.5)],
    waiting=3, running=2,
  )  # fmt: skip
  assert (made.new, made.rows, made.waiting, made.running, made.step_ms) == (2, 4, 3, 2, [250.0, 500.0])
  assert (made.read, made.own, made.retained) == (1.5, 1.5, 0.5)
  assert (made.layers, made.experts) == (2, 3)
  assert isinstance(made.counts, ExpertCounts)
  assert bits(made.counts) == {
    "prompts": [1, 0, 0, 0, 0, 0],
    "exact": [0, 0, 0, 1, 0, 1],
    "adaptive": [0, 2, 0, 1, 0, 0],
    "saved": [0, 0, 1, 1, 0, 0],
  }
  many = summed_up([record(readers=first)] * 300, waiting=0, running=0)
  assert isinstance(many.counts, ExpertCounts)
  assert bits(many.counts)["prompts"][0] == 255
  assert len(many.step_ms) == 60
  none = summed_up([], waiting=0, running=0)
  assert (none.new, none.counts, none.own, none.read) == (0, None, None, 0.0)


def test_steps_that_the_log_has_lost_are_left_out():
  log = StepLog(layers=2, most=3)
  assert new_steps(log, 0) == ([], 0)
  for rows in range(5):
    log.recent.append(record(rows=rows))
    log.steps += 1
  found, seen = new_steps(log, 1)
  assert ([one.rows for one in found], seen) == ([2, 3, 4], 5)
  assert new_steps(log, seen) == ([], 5)
