"""The arithmetic of `bench serve`, from parts that are stated here, and what its files hold."""

import asyncio
import re

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from lynx_jax.bench.arrivals import Bursts
from lynx_jax.bench.serve.asked import CHAT, TEXT, random_bodies, random_lengths, read_lengths, read_prompts, timed
from lynx_jax.bench.serve.client import Observed, events, has_tokens
from lynx_jax.bench.serve.figures import parse_objectives, serve_figures

OBSERVED = [
  Observed(sent=0.0, came=[1.0, 1.5, 3.0], prompt_tokens=10, output_tokens=5, ended=3.5),
  Observed(sent=2.0, came=[2.25], prompt_tokens=4, output_tokens=1, ended=2.5),
  Observed(sent=2.0, came=[3.0], output_tokens=9, ended=5.0, error="503 full"),
]


def test_figures_of_what_clients_saw():
  found = serve_figures(OBSERVED, {"ttft": 500})
  assert (found.requests, found.failed, found.seconds) == (3, {"503 full": 1}, 5.0)
  # A request that failed has no part in any rate or time.
  assert (found.prompt_tokens, found.output_tokens) == (14, 6)
  assert found.tokens_per_second == pytest.approx(6 / 5)
  assert found.requests_per_second == pytest.approx(2 / 5)
  times = (found.ttft_ms, found.itl_ms, found.tpot_ms, found.e2e_ms)
  # First tokens after 1 and 0.25 s; gaps 0.5 and 1.5 s; 2 s for four tokens after the first; ends after 3.5 and 0.5 s.
  assert [time and time.mean for time in times] == pytest.approx([625, 1000, 500, 2000])
  assert [time and time.p50 for time in times] == pytest.approx([625, 1000, 500, 2000])
  assert found.ttft_ms is not None
  assert found.ttft_ms.p99 == pytest.approx(250 + 0.99 * 750)
  assert (found.good, found.goodput) == (1, pytest.approx(1 / 5))


@pytest.mark.parametrize(
  ("objectives", "good"),
  [({}, None), ({"ttft": 1000}, 2), ({"itl": 1499}, 1), ({"itl": 1500}, 2), ({"tpot": 499}, 1), ({"e2e": 3500}, 2),
   ({"e2e": 499}, 0), ({"ttft": 250, "e2e": 500}, 1)],
)  # fmt: skip
def test_good_requests_keep_every_objective(objectives, good):
  assert serve_figures(OBSERVED, objectives).good == good


def test_nothing_sent_and_nothing_answered_are_figures_too():
  assert serve_figures([], {}).tokens_per_second == 0
  failed = serve_figures(OBSERVED[2:], {"ttft": 1})
  assert (failed.ttft_ms, failed.good, failed.failed) == (None, 0, {"503 full": 1})


def test_objectives_are_read_or_named():
  assert parse_objectives("ttft=500,tpot=50") == {"ttft": 500, "tpot": 50}
  for wrong in ("", "ttft", "ttft=x", "speed=1", "ttft=0", "ttft=-1"):
    with pytest.raises(ValueError, match=r"--slo is .*expected one or more of ttft, itl, tpot, e2e"):
      parse_objectives(wrong)


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20)), st.data())
def test_events_are_the_same_however_bytes_are_cut(texts, data):
  wanted = [text.encode().strip() for text in texts]
  stream = b": a comment\n\n" + b"".join(b"data: " + text + b"\r\n\n" for text in wanted)
  cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))

  async def parts():
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
      yield stream[begin:end]

  async def read():
    return [one async for one in events(parts())]

  assert asyncio.run(read()) == wanted


def test_what_counts_as_tokens():
  bringing = [
    {"text": "a"}, {"text": "", "token_ids": [3]}, {"delta": {"content": "a"}}, {"delta": {"reasoning_content": "a"}},
    {"delta": {"tool_calls": [{"index": 0}]}},
  ]  # fmt: skip
  assert all(map(has_tokens, bringing))
  silent = [{"text": ""}, {"delta": {"role": "assistant", "content": ""}}, {"delta": None}, {"finish_reason": "length"}]
  assert not any(map(has_tokens, silent))


def test_random_requests_have_the_lengths_and_ids_that_were_asked_for():
  def make(seed):
    random = np.random.default_rng(seed)
    return random_bodies(random_lengths(50, (3, 9), (2, 4), random), (7, 11), random)

  bodies = make(0)
  assert {len(body["prompt"]) for body in bodies} == set(range(3, 10))
  assert {body["max_tokens"] for body in bodies} == {2, 3, 4}
  assert {token for body in bodies for token in body["prompt"]} == set(range(7, 12))
  assert make(0) == bodies != make(1)


def test_requests_are_streams_at_their_times():
  bodies = [{"prompt": "a"}, {"messages": []}, {"prompt": "b"}]
  sent = timed(bodies, Bursts(size=2, every=3.0), np.random.default_rng(0), {"model": "m"})
  assert [(one.at, one.path) for one in sent] == [(0, TEXT), (0, CHAT), (3, TEXT)]
  for body, one in zip(bodies, sent, strict=True):
    assert one.body == body | {"stream": True, "stream_options": {"include_usage": True}, "model": "m"}


def test_lengths_and_prompts_of_files(tmp_path):
  lengths, prompts = tmp_path / "lengths.txt", tmp_path / "prompts.jsonl"
  lengths.write_text("128 64\n\n7,3\n")
  assert read_lengths(lengths) == [(128, 64), (7, 3)]
  prompts.write_text(
    '{"prompt": "é"}\n{"custom_id": "1", "body": {"messages": [], "max_tokens": 2}}\n'
    '{"messages": [], "max_completion_tokens": 4}\n',
    encoding="utf-8",
  )
  assert read_prompts(prompts, 9) == [
    {"prompt": "é", "max_tokens": 9},
    {"messages": [], "max_tokens": 2},
    {"messages": [], "max_completion_tokens": 4},
  ]


@pytest.mark.parametrize(
  ("read", "text", "message"),
  [
    (read_lengths, "1 2\n3\n", "line 2 is '3': expected two whole numbers"),
    (read_lengths, "0 2\n", "expected lengths of at least 1"),
    (read_lengths, "", "expected a file of lines such as 128 64"),
    (read_prompts, "{\n", "line 1 is '{': expected a JSON object"),
    (read_prompts, "[1]\n", "expected a JSON object"),
    (read_prompts, "{}\n", "expected an object with prompt or messages"),
    (read_prompts, '{"prompt": "", "messages": []}\n', "expected an object with prompt or messages"),
    (read_prompts, "\n", "expected a file of lines with prompt or messages"),
  ],
)
def test_wrong_files_are_named(tmp_path, read, text, message):
  path = tmp_path / "file"
  path.write_text(text)
  with pytest.raises(ValueError, match=re.escape(message)):
    read(path) if read is read_lengths else read(path, 1)
