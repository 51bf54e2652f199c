"""Requests whose output must be of a form: draws equal a plain statement of the rule, and others' keep their bits."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.host.adjustments import Adjustments
from lynx_jax.engine.host.constraint import Constrained, Constraint, pack_words
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.sampling import Sampling
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.engine.steps import forward
from tests.engine.host.rules import HashRule, words
from tests.small_models import VOCAB, random_prompts, small_params

NEW = 12
# As in test_adjustments.py, so that both share their compiled programs.
SIZES = EngineSettings(slots=4, context=96, mixed=(64,), policy="auto:share=0.4", routing=True)
PROMPTS = random_prompts((9, 20, 33, 5))
RULES = (HashRule(4, VOCAB), HashRule(8, VOCAB), HashRule(11, VOCAB))


@dataclasses.dataclass(frozen=True)
class Listed:
  """The tokens that may come at each place; after the last, the output is whole."""

  places: tuple[set[int], ...]
  ends: frozenset[int] = frozenset()

  def start(self) -> "ListedState":
    return ListedState(self)


class ListedState:
  def __init__(self, rule: Listed):
    self._rule, self._at = rule, 0

  def allowed(self) -> bytes:
    return words(self._rule.places[self._at] if self._at < len(self._rule.places) else set(), VOCAB)

  def may_end(self) -> bool:
    return self._at >= len(self._rule.places) or self._at in self._rule.ends

  def advance(self, token: int) -> None:
    self._at += 1


def request(name, prompt, **fields) -> Request:
  return Request(**({"id": str(name), "prompt": tuple(prompt), "max_new_tokens": NEW, "quality": "exact"} | fields))


def run(requests: list[Request], **settings) -> dict[str, tuple[list[int], str, str]]:
  """Tokens, reason and message of each request."""
  core = EngineCore(small_params(), dataclasses.replace(SIZES, **settings))
  for one in requests:
    core.submit(one)
  tokens: dict[str, list[int]] = {one.id: [] for one in requests}
  ends = {}
  for piece in core.run():
    tokens[piece.request_id] += piece.token_ids
    if piece.finished is not None:
      ends[piece.request_id] = piece.finished.reason, piece.finished.message
  assert core.stats().held_blocks == 0
  return {name: (tokens[name], *ends[name]) for name in tokens}


@functools.cache
def logits_after(tokens: tuple[int, ...]) -> np.ndarray:
  padded = np.zeros((1, 96), np.int32)
  padded[0, : len(tokens)] = tokens
  return np.asarray(_forward(small_params(), padded)[0, len(tokens) - 1], np.float64)


_forward = jax.jit(forward)


def expected(prompt: list[int], rule: HashRule, new: int = NEW) -> tuple[list[int], str]:
  """The likeliest allowed tokens, and how the output ends."""
  output: list[int] = []
  while len(output) < new:
    allowed = sorted(rule.tokens(output))
    if not allowed:
      return output, "stop" if rule.may_end(output) else "error"
    logits = logits_after((*prompt, *output))
    output.append(allowed[int(np.argmax(logits[allowed]))])
  return output, "stop" if not rule.tokens(output) and rule.may_end(output) else "length"


@pytest.mark.parametrize("run_ahead", [0, 1, 2])
def test_each_row_draws_what_its_rule_allows_and_the_others_what_they_draw_alone(run_ahead):
  warm = Sampling(temperature=1.0, seed=3)
  free = [request("free", PROMPTS[1]), request("warm", PROMPTS[3], sampling=warm)]
  bound = [
    request(index, prompt, constraint=rule) for index, (prompt, rule) in enumerate(zip(PROMPTS, RULES, strict=False))
  ]
  found = run([*bound, *free], run_ahead=run_ahead)
  for index, rule in enumerate(RULES):
    assert found[str(index)][:2] == expected(PROMPTS[index], rule)
  assert {name: found[name] for name in ("free", "warm")} == run(free)


def test_a_rule_that_leaves_nothing_or_fails_ends_its_request_alone():
  rules = [Listed(({3}, {4}, set(), {5})), HashRule(4, VOCAB, fails=2), Listed(({7}, {8}))]
  found = run([request(index, PROMPTS[index], constraint=rule) for index, rule in enumerate(rules)])
  assert found["0"][:2] == ([3, 4], "error")
  assert "allows no token after 2" in found["0"][2]
  assert found["1"][1] == "error"
  assert "too complex" in found["1"][2]
  assert found["2"] == ([7, 8], "stop", "")


def test_the_end_of_text_comes_only_where_the_output_may_end():
  core = EngineCore(small_params(), SIZES)
  # As if the model had a stop token, without programs of its own.
  core._scheduler.limits = dataclasses.replace(core.limits, eos_ids=frozenset({5}))
  always = Adjustments(logit_bias=((5, 100.0),))
  rule = Listed(tuple({5, token} for token in (11, 12, 13, 14)), frozenset({2}))
  core.submit(request("a", PROMPTS[0], constraint=rule, adjustments=always))
  core.submit(request("b", PROMPTS[0], constraint=rule, adjustments=dataclasses.replace(always, min_tokens=3)))
  tokens = {"a": [], "b": []}
  reasons = {}
  for piece in core.run():
    tokens[piece.request_id] += piece.token_ids
    if piece.finished:
      reasons[piece.request_id] = piece.finished.reason
  assert tokens == {"a": [11, 12, 5], "b": [11, 12, 13, 14]}
  assert reasons == {"a": "stop", "b": "stop"}


def test_warm_rows_draw_the_allowed_tokens_by_their_shares():
  prompt, allowed, draws = PROMPTS[0], {2, 30, 60, 90}, 400
  rule = Listed((allowed,))
  logits = logits_after(tuple(prompt)) / 8
  requests = [
    request(stream, prompt, constraint=rule, sampling=Sampling(temperature=8.0, seed=1, stream=stream))
    for stream in range(draws)
  ]
  tokens = [found[0][0] for found in run(requests).values()]
  share = np.exp(logits[sorted(allowed)] - logits[sorted(allowed)].max())
  share /= share.sum()
  counted = np.array([tokens.count(token) for token in sorted(allowed)])
  assert counted.sum() == draws
  np.testing.assert_allclose(counted / draws, share, atol=0.1)


def test_a_row_that_loses_its_blocks_keeps_its_place_in_the_rule():
  core = EngineCore(small_params(), SIZES)
  for index, rule in enumerate(RULES):
    core.submit(request(index, PROMPTS[index], constraint=rule))
  pieces = [piece for _ in range(3) for piece in core.step()]
  # The same weights, as others: all that runs is computed again.
  pieces += core.update_weights(small_params())
  assert core.stats().preemptions == len(RULES)
  tokens = [[] for _ in RULES]
  for piece in [*pieces, *core.run()]:
    tokens[int(piece.request_id)] += piece.token_ids
  assert tokens == [expected(PROMPTS[index], rule)[0] for index, rule in enumerate(RULES)]


def test_what_is_no_constraint_is_refused(own_errors):
  with pytest.raises(ValueError, match="constraint is 'json'"):
    request("a", PROMPTS[0], constraint="json")
  with pytest.raises(ValueError, match="ignore_eos is True: expected False with a constraint"):
    request("a", PROMPTS[0], constraint=RULES[0], ignore_eos=True)
  core = EngineCore(small_params(), SIZES)
  with pytest.raises(ValueError, match="allows no token"):
    core.submit(request("a", PROMPTS[0], constraint=Listed((set(),))))
  assert core.idle


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 97])
def test_bits_are_those_of_the_tokens_whatever_the_vocabulary(vocab):
  rule: Constraint = Listed(tuple({vocab - 1, 0, 3} for _ in range(2)))
  draw = Constrained(rule, vocab, eos_ids=(), stop_ids=(), least=0).draw(1)
  packed = pack_words([draw], 2, vocab)
  bits = np.unpackbits(packed.view(np.uint8), axis=1, bitorder="little")
  assert set(np.flatnonzero(bits[1])) == {token for token in (vocab - 1, 0, 3) if token < vocab}
  assert bits[0].all()
  assert [draw.allows(token) for token in range(vocab)] == bits[1, :vocab].astype(bool).tolist()
