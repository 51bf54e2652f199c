"""Biases, penalties and stop tokens that must wait: what the engine draws equals a plain statement of the rule."""

import collections
import functools

import jax
import numpy as np
import pytest

from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.host.adjustments import Adjustments
from lynx_jax.engine.host.request import Piece, Request
from lynx_jax.engine.sampling import Sampling
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.engine.steps import forward
from tests.small_models import VOCAB, random_prompts, small_params

NEW = 12
# As in test_engine.py, so that both share their compiled programs.
SIZES = EngineSettings(slots=4, context=96, mixed=(64,), policy="auto:share=0.4", routing=True)
PROMPTS = random_prompts((9, 20, 33, 5))


@functools.cache
def logits_after(tokens: tuple[int, ...]) -> np.ndarray:
  padded = np.zeros((1, 96), np.int32)
  padded[0, : len(tokens)] = tokens
  return np.asarray(_forward(small_params(), padded)[0, len(tokens) - 1], np.float64)


_forward = jax.jit(forward)


def expected(prompt: list[int], changes: Adjustments, stop_ids=frozenset(), new: int = NEW) -> list[int]:
  """The most likely continuation of adjusted logits, token by token."""
  output: list[int] = []
  while len(output) < new:
    logits = logits_after((*prompt, *output)).copy()
    for token in {*prompt, *output}:
      divided = logits[token] > 0
      logits[token] *= 1 / changes.repetition_penalty if divided else changes.repetition_penalty
    for token, count in collections.Counter(output).items():
      logits[token] -= changes.frequency_penalty * count + changes.presence_penalty
    for token, bias in changes.logit_bias:
      logits[token] += bias
    if len(output) < changes.min_tokens:
      logits[list(stop_ids)] = -np.inf
    output.append(int(np.argmax(logits)))
    if output[-1] in stop_ids:
      break
  return output


def drawn(requests: list[Request]) -> list[list[int]]:
  core = EngineCore(small_params(), SIZES)
  for one in requests:
    core.submit(one)
  found = collected(core.run(), len(requests))
  assert core.stats().held_blocks == 0
  return found


def collected(pieces: list[Piece], requests: int) -> list[list[int]]:
  """Tokens of the requests 0, 1, ..."""
  tokens = [[] for _ in range(requests)]
  for piece in pieces:
    tokens[int(piece.request_id)] += piece.token_ids
  return tokens


def request(name, prompt, **fields) -> Request:
  return Request(**({"id": str(name), "prompt": tuple(prompt), "max_new_tokens": NEW, "quality": "exact"} | fields))


CHANGES = [
  Adjustments(logit_bias=((3, 100.0), (5, -100.0))),
  Adjustments(presence_penalty=2.0),
  Adjustments(frequency_penalty=1.5, logit_bias=((7, 4.0),)),
  Adjustments(repetition_penalty=1.7),
  Adjustments(repetition_penalty=0.6, presence_penalty=-2.0, frequency_penalty=-0.5),
]


def test_each_row_draws_by_its_own_rule_whatever_its_mates_ask_for():
  asked = [*CHANGES, Adjustments()]
  prompts = [PROMPTS[index % len(PROMPTS)] for index in range(len(asked))]
  requests = [request(index, prompts[index], adjustments=one) for index, one in enumerate(asked)]
  found = drawn(requests)
  assert found == [expected(prompt, one) for prompt, one in zip(prompts, asked, strict=True)]
  plain = [expected(prompt, Adjustments()) for prompt in prompts]
  assert [a != b for a, b in zip(found, plain, strict=True)] == [True] * len(CHANGES) + [False]


def test_a_warm_row_draws_from_the_changed_distribution():
  forced = Adjustments(logit_bias=tuple((token, -100.0) for token in range(VOCAB) if token not in (4, 8)))
  warm = Sampling(temperature=1.0, seed=1)
  mate = request(0, PROMPTS[1], sampling=warm)
  beside, found = drawn([mate, request(1, PROMPTS[0], adjustments=forced, sampling=warm, max_new_tokens=40)])
  assert set(found) == {4, 8}
  assert [beside] == drawn([mate])


@pytest.mark.parametrize("least", [0, 5])
def test_no_stop_token_comes_before_its_time(least):
  prompt = PROMPTS[2]
  stops = frozenset(expected(prompt, Adjustments())[1:4])
  changes = Adjustments(min_tokens=least)
  (found,) = drawn([request(0, prompt, stop_token_ids=stops, adjustments=changes)])
  assert found == expected(prompt, changes, stops)
  assert len(found) > least


def test_rows_that_lose_their_blocks_keep_their_counts():
  core = EngineCore(small_params(), SIZES)
  changes = Adjustments(repetition_penalty=1.5, frequency_penalty=1.0)
  for index, prompt in enumerate(PROMPTS):
    core.submit(request(index, prompt, adjustments=changes))
  pieces = [piece for _ in range(6) for piece in core.step()]
  # The same weights, as others: all that runs is computed again.
  pieces += core.update_weights(small_params())
  assert core.stats().preemptions == len(PROMPTS)
  assert collected([*pieces, *core.run()], len(PROMPTS)) == [expected(prompt, changes) for prompt in PROMPTS]


def test_a_bias_outside_the_vocabulary_is_refused():
  core = EngineCore(small_params(), SIZES)
  with pytest.raises(ValueError, match="logit_bias of request 'a' is 97"):
    core.submit(request("a", PROMPTS[0], adjustments=Adjustments(logit_bias=((VOCAB, 1.0),))))
  with pytest.raises(ValueError, match="at most 300"):
    Adjustments(logit_bias=tuple((token, 1.0) for token in range(301)))
