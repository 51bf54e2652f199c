"""Random use of an engine loop, from a seed: many requests in little time."""

import random

from lynx_jax.engine.host.limits import Limits
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.host.sampling import Sampling
from lynx_jax.engine.host.step_plan import Programs
from tests.engine.host.engine_loop import EngineLoop
from tests.engine.host.rules import HashRule
from tests.engine.host.shadow import VOCAB

STARTS = ((1, 2, 3, 4) * 6, (1, 2, 3, 4, 5, 6, 7, 8) * 3, (9,) * 24)


def small_limits(**changes) -> Limits:
  """An engine that is always short of blocks: 4 rows of up to 40 positions in room for two of the longest."""
  sizes = {
    "blocks": 20,
    "slots": 4,
    "context": 40,
    "block_size": 4,
    "eos_ids": frozenset({0}),
    "policy": "auto",
    "vocab": VOCAB,
  }
  return Limits(**{"programs": Programs(decode=(1, 2, 4), mixed=(8, 16)), **sizes, **changes})


def random_request(
  rng: random.Random, name: str, whole: list[tuple[int, ...]], again: float, constrained: bool
) -> Request:
  """A request whose prompt often begins as others do, or goes on from one of the `whole` ones with its output."""
  prompt = rng.choice(STARTS)[: rng.randint(0, 24)]
  more = tuple(rng.randrange(16) for _ in range(rng.randint(1, 5)))
  short = [one for one in whole[-4:] if len(one) < 34]
  if short and rng.random() < again:
    prompt, more = rng.choice(short), more[: rng.choice((0, 1, 5))]
  prompt = (*prompt, *more)[:36]
  constraint = HashRule(len(prompt), VOCAB) if constrained and sum(prompt) % 2 else None
  return Request(
    id=name,
    prompt=prompt,
    max_new_tokens=rng.randint(0, min(11, 40 - len(prompt))),
    sampling=Sampling(seed=rng.randrange(3)),
    stop_strings=rng.choice(((), (), ("ab",), ("bc", "abca"))),
    constraint=constraint,
    ignore_eos=rng.random() < 0.5 and constraint is None,
    quality=rng.choice(("exact", "standard")),
    priority=rng.choice((0, 0, 0, -1, 1)),
    cache_salt=rng.choice(("", "", "", "other")),
    logprobs=0 if len(prompt) % 2 else None,
    prompt_logprobs=rng.choice((None, None, None, 0)),
  )


def drive(
  loop: EngineLoop,
  seed: int,
  requests: int,
  *,
  aborts: float = 0.2,
  faults: float = 0.0,
  again: float = 0.5,
  names: int = 10**9,
  constrained: bool = False,
) -> None:
  """Submits so many requests as room appears, aborts some at any time, and runs all to their end.

  Args:
    loop: to use.
    seed: of all choices.
    requests: how many.
    aborts: share of the requests that are aborted.
    faults: chance of a device failure, and of a swap of weights, in a turn.
    again: share of the requests whose prompt is one that ended, with its output.
    names: requests take turns with so many names, so that a name is used again soon after its request ended.
    constrained: whether some requests may draw some tokens only.
  """
  rng, submitted, turns = random.Random(seed), 0, 0
  while submitted < requests:
    turns += 1
    assert turns < 100 * requests, "requests do not end"
    for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
      name = f"{submitted % names}"
      if len(loop.pieces) < 12 and submitted < requests and name not in loop.pieces:
        loop.submit(random_request(rng, name, loop.whole, again, constrained))
        submitted += 1
        if rng.random() < aborts:
          for _ in range(rng.randrange(8)):
            loop.turn(rng.randrange(4))
          victim = rng.choice(sorted(loop.pieces or {""}))
          if victim:
            loop.abort(victim)
    loop.turn(rng.randrange(4))
    if rng.random() < faults:
      loop.fail()
    if rng.random() < faults:
      loop.update_weights(recompute=rng.random() < 0.5)
    if rng.random() < 0.1:
      loop.check()
  loop.drain(run_ahead=rng.randrange(4))
