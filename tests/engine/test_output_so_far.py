"""A request that goes on from what another engine drew gets the rest of what it would have got: the same numbers."""

import functools

import pytest

from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.host.adjustments import Adjustments
from lynx_jax.engine.host.request import Piece, Request
from lynx_jax.engine.sampling import Sampling
from lynx_jax.engine.settings import EngineSettings
from tests.engine.host.rules import HashRule
from tests.small_models import VOCAB, random_prompts, small_params

NEW = 12
# As in test_adjustments.py, so that both share their compiled programs.
SIZES = EngineSettings(slots=4, context=96, mixed=(64,), policy="auto:share=0.4", routing=True)
WARM = Sampling(temperature=1.2, top_p=0.95, seed=11, stream=2)
KINDS = {
  "greedy": {},
  "seeded": {"sampling": WARM, "logprobs": 2},
  "penalties": {"sampling": WARM, "adjustments": Adjustments(
    repetition_penalty=1.3, frequency_penalty=0.5, presence_penalty=0.4, min_tokens=9
  ), "stop_token_ids": frozenset(range(0, VOCAB, 3))},
  "constraint": {"sampling": WARM, "constraint": HashRule(4, VOCAB)},
}  # fmt: skip
PROMPTS = dict(zip(KINDS, random_prompts((9, 31, 40, 33)), strict=True))


@functools.cache
def core() -> EngineCore:
  return EngineCore(small_params(), SIZES)


def request(name: str, **fields) -> Request:
  prompt = tuple(PROMPTS[name])
  return Request(**{"id": name, "prompt": prompt, "max_new_tokens": NEW, "quality": "exact", **KINDS[name], **fields})


def run(requests: list[Request]) -> dict[str, list[Piece]]:
  for one in requests:
    core().submit(one)
  pieces: dict[str, list[Piece]] = {one.id: [] for one in requests}
  for piece in core().run():
    pieces[piece.request_id].append(piece)
  return pieces


@pytest.mark.parametrize("cut", [1, 2, 7, 11])
def test_the_tail_of_a_row_is_drawn_again_from_its_own_random_numbers(cut: int):
  whole = run([request(name) for name in KINDS])
  known = {name: tuple(piece.token_ids[0] for piece in pieces[:cut]) for name, pieces in whole.items()}
  cut_short = [name for name in KINDS if len(whole[name]) > cut]
  assert set(cut_short) >= {"greedy", "seeded"}
  rest = run([request(name, output_so_far=known[name]) for name in cut_short])
  for name in cut_short:
    assert [piece.token_ids for piece in rest[name]] == [piece.token_ids for piece in whole[name][cut:]]
    for one, other in zip(rest[name], whole[name][cut:], strict=True):
      # Positions that rows wrote are read in a chunk here: sums in another order.
      assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    first, second = whole[name][-1].finished, rest[name][-1].finished
    assert first is not None
    assert second is not None
    assert (first.reason, first.output_tokens) == (second.reason, second.output_tokens)


def test_without_what_was_drawn_the_random_numbers_would_be_others():
  # Else the test above could not fail for a seeded row.
  whole = run([request("seeded")])["seeded"]
  drawn = tuple(piece.token_ids[0] for piece in whole)
  prompt = (*PROMPTS["seeded"], *drawn[:4])
  naive = run([request("seeded", prompt=prompt, max_new_tokens=NEW - 4)])["seeded"]
  assert tuple(piece.token_ids[0] for piece in naive) != drawn[4:]
