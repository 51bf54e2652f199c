"""Steady decode: the engine beside `decode_loop` on the same rows, in turns."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lynx_jax.bench.engine.load import Load, TimedRequest, positions_of, with_context
from lynx_jax.bench.engine.serve import serve
from lynx_jax.bench.engine.static_batches import make_batch
from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.programs import compiled_decode_loop, compiled_prefill
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.engine.state import DecodeState
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SteadyDecode:
  """Two ways to decode the same rows at the same positions.

  Attributes:
    rows: that decode.
    steps: of a turn.
    engine_ms: median time of a step of the engine, in milliseconds.
    loop_ms: median time of a step of `decode_loop`, in milliseconds.
    ratio: the loop's time over the engine's, the median of ratios within a turn; 1 is as fast.
  """

  rows: int
  steps: int
  engine_ms: float
  loop_ms: float
  ratio: float


def steady_decode(
  params: Params,
  settings: EngineSettings,
  *,
  steps: int = 64,
  prompt: int = 128,
  repeats: int = 5,
  seed: int = 0,
  clock: Callable[[], float] = time.perf_counter,
) -> SteadyDecode:
  """Times `steps` decode steps of `settings.slots` rows.

  Both sides decode the same prompts at temperature 1 from the same random streams. The first decode step of each turn
  is not timed.

  Args:
    params: the model.
    settings: of the engine, and of the loop its policy.
    steps: timed steps of a turn.
    prompt: tokens of each prompt.
    repeats: turns of each side.
    seed: of prompts and draws.
    clock: seconds.

  Raises:
    ValueError: prompt and steps do not fit the model's context.
  """
  load = Load(requests=settings.slots, prompt=(prompt, prompt), output=(steps + 2, steps + 2), seed=seed)
  timed = load.timed_requests(params.spec.vocab)
  positions = positions_of(timed)
  settings = with_context(settings, positions, params.spec)
  core = EngineCore(params, dataclasses.replace(settings, prompts_first=True))
  core.warm_up()
  loop = _Loop(params, timed, settings.policy, positions)
  _engine_seconds(core, timed, clock)
  loop.seconds(steps, clock)
  turns = [(_engine_seconds(core, timed, clock), loop.seconds(steps, clock)) for _ in range(repeats)]
  engine, looped = zip(*turns, strict=True)
  return SteadyDecode(
    rows=settings.slots,
    steps=steps,
    engine_ms=statistics.median(engine) / steps * 1e3,
    loop_ms=statistics.median(looped) / steps * 1e3,
    ratio=statistics.median(loop_time / engine_time for engine_time, loop_time in turns),
  )


def _engine_seconds(core: EngineCore, timed: Sequence[TimedRequest], clock: Callable[[], float]) -> float:
  """Time from the first decode step's end to the last one's; all rows decode in lock step."""
  served = serve(core, timed, clock=clock)
  times = served.token_times[timed[0].request.id]
  return times[-1] - times[1]


class _Loop:
  """`decode_loop` on rows that have been read."""

  def __init__(self, params: Params, timed: Sequence[TimedRequest], policy: RoutingPolicy | str | None, capacity: int):
    batch = make_batch(timed, step=1)
    self._params, self._policy = params, policy
    self._start = compiled_prefill(params, batch.token_ids, batch.lengths, capacity, batch.asked)

  def seconds(self, steps: int, clock: Callable[[], float]) -> float:
    """Time of `steps` decode steps after the first one."""
    state = jax.block_until_ready(self._decode(jax.tree.map(jnp.copy, self._start), 1))
    begin = clock()
    jax.block_until_ready(self._decode(state, steps))
    return clock() - begin

  def _decode(self, state: DecodeState, steps: int) -> DecodeState:
    return compiled_decode_loop(self._params, state, policy=self._policy, max_steps=np.int32(steps))
