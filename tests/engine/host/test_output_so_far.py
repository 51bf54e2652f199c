"""An output that goes on from what another engine drew: text, ends and counts are those of one that was never cut."""

import pytest

from lynx_jax.engine.host.limits import Limits
from lynx_jax.engine.host.request import Piece, Request
from lynx_jax.engine.host.sampling import Sampling
from tests.engine.host.drive import small_limits
from tests.engine.host.engine_loop import EngineLoop
from tests.engine.host.rules import HashRule
from tests.engine.host.shadow import VOCAB

KINDS = {
  "plain": {},
  "stop strings": {"stop_strings": ("ab", "bca", "éh")},
  "stop tokens": {"stop_token_ids": frozenset({7}), "ignore_eos": True},
  "constraint": {"constraint": HashRule(5, VOCAB)},
  "both": {"constraint": HashRule(7, VOCAB), "stop_strings": ("cab", "d")},
  "logprobs": {"logprobs": 0, "ignore_eos": True},
}


def pieces_of(request: Request, limits: Limits) -> list[Piece]:
  """What one request gets, beside another that is always short of blocks with it."""
  loop = EngineLoop(limits)
  loop.submit(Request(id="other", prompt=(1, 2, 3), max_new_tokens=20, ignore_eos=True))
  loop.submit(request)
  pieces = loop.pieces[request.id]
  loop.drain()
  return pieces


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["", "auto"])
def test_wherever_it_is_cut_the_rest_is_the_same(kind: str, policy: str):
  limits, cuts = small_limits(policy=policy), 0
  for seed in range(2):
    fields = {"prompt": (1, 2, 3, 4, 5 + seed), "max_new_tokens": 12, "sampling": Sampling(seed=seed), **KINDS[kind]}
    whole = pieces_of(Request(id="a", **fields), limits)
    for cut in range(1, len(whole)):
      known = tuple(token for piece in whole[:cut] for token in piece.token_ids)
      rest = pieces_of(Request(id="a", **fields, output_so_far=known), limits)
      assert [_told(piece) for piece in rest] == [_told(piece) for piece in whole[cut:]]
      cuts += 1
  assert cuts > 2


def _told(piece: Piece) -> tuple:
  """All that a client is told, but how its request was run."""
  end = piece.finished
  return (*piece[:-1], None if end is None else (end.reason, end.message, end.prompt_tokens, end.output_tokens))


def test_cached_tokens_are_of_the_prompt_alone():
  loop = EngineLoop(small_limits(policy=""))
  fields = {"prompt": tuple(range(1, 10)), "ignore_eos": True, "max_new_tokens": 14}
  loop.submit(Request(id="a", **fields))
  loop.drain()
  drawn = loop.whole[-1][9:]
  loop.submit(Request(id="b", **fields, output_so_far=drawn[:-1]))
  loop.drain()
  end = loop.ended["b"].finished
  assert end is not None
  assert (end.prompt_tokens, end.cached_tokens, end.output_tokens) == (9, 9, 14)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"output_so_far": (1, 2, 3, 4)}, "an output that is whole does not go on"),
    ({"output_so_far": (1, -1)}, "output_so_far"),
    ({"output_so_far": (1,), "prompt_logprobs": 0}, "they came with the first of these tokens"),
    ({"output_so_far": (1, 0)}, "an output that has ended does not go on"),
    ({"output_so_far": (1, VOCAB)}, f"below {VOCAB}"),
    ({"output_so_far": (0, 1), "ignore_eos": True, "stop_strings": ("ab",)}, "an output that no stop string ends"),
  ],
)
def test_what_cannot_go_on_is_refused(fields: dict, message: str):
  loop = EngineLoop(small_limits(policy=""))
  with pytest.raises(ValueError, match=message):
    loop.submit(Request(**{"id": "a", "prompt": (1, 2), "max_new_tokens": 4} | fields))
  assert not loop.scheduler._by_id


def test_an_output_that_its_constraint_does_not_take_is_refused():
  rule, loop = HashRule(5, VOCAB), EngineLoop(small_limits(policy=""))
  wrong = next(token for token in range(1, VOCAB) if token not in rule.tokens([]))
  with pytest.raises(ValueError, match="advance"):
    loop.submit(Request(id="a", prompt=(1,), max_new_tokens=4, constraint=rule, output_so_far=(wrong,)))
