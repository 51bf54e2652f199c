"""What decoding rows feel while long prompts arrive: the tail of the time between their tokens."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lynx_jax.bench.engine.figures import percentiles
from lynx_jax.bench.engine.load import with_context
from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.host.chunking import LEAST_CHUNK
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.host.sampling import Sampling
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.models.params import Params
from pallas_kernels.checks import require


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArrivingPrompts:
  """Rows that decode while prompts arrive one by one.

  Attributes:
    rows: that decode all the time.
    prompt: tokens of each prompt that arrives.
    step_ms: the engine's setting; None lets chunks be as large as they can.
    pure_ms: median time between tokens while no prompt is read, in milliseconds.
    itl_p50_ms: median time between tokens, over all.
    itl_p99_ms: its tail.
    over_pure: the tail over the pure step.
    ttft_ms: median time from a prompt's arrival to its first token.
  """

  rows: int
  prompt: int
  step_ms: float | None
  pure_ms: float
  itl_p50_ms: float
  itl_p99_ms: float
  over_pure: float
  ttft_ms: float


def arriving_prompts(
  params: Params,
  settings: EngineSettings,
  *,
  prompt: int = 512,
  prompts: int = 8,
  quiet: int = 16,
  seed: int = 0,
  clock: Callable[[], float] = time.perf_counter,
) -> list[ArrivingPrompts]:
  """Measures twice: as `settings` say, and with `step_ms` set to the pure step of the first measurement.

  Args:
    params: the model.
    settings: of the engine; one of its slots is for the prompts that arrive.
    prompt: tokens of each of these.
    prompts: how many arrive, each after the one before has its token.
    quiet: decode steps between them.
    seed: of tokens.
    clock: seconds.

  Raises:
    ValueError: the rows' outputs or the prompts do not fit the model's context, or there is only one slot.
  """
  where = "EngineSettings.slots"
  require(settings.slots > 1, where, settings.slots, "at least 2, one for the prompts that arrive")
  first = _measure(params, settings, prompt, prompts, quiet, seed, clock)
  held = dataclasses.replace(settings, step_ms=first.pure_ms)
  return [first, _measure(params, held, prompt, prompts, quiet, seed, clock)]


class _Gap(NamedTuple):
  """The time between two tokens of the decoding rows, and the prompts' tokens that the step read beside them."""

  seconds: float
  chunk_tokens: int


def _measure(
  params: Params,
  settings: EngineSettings,
  prompt: int,
  prompts: int,
  quiet: int,
  seed: int,
  clock: Callable[[], float],
) -> ArrivingPrompts:
  rows = settings.slots - 1
  chunks = -(-prompt // LEAST_CHUNK)
  # The first prompt is not measured. The rows' own prompts take some steps, and so do steps that are in flight.
  output = (prompts + 1) * (quiet + chunks + 4) + rows + 16
  core = EngineCore(params, with_context(settings, max(prompt + 1, _OWN_PROMPT + output), params.spec))
  core.warm_up()
  random = np.random.default_rng(seed)

  def request(name: str, length: int, new: int) -> Request:
    tokens = tuple(random.integers(params.spec.vocab, size=length).tolist())
    sampling = Sampling(temperature=1.0, seed=seed)
    return Request(id=name, prompt=tokens, max_new_tokens=new, sampling=sampling, ignore_eos=True)

  for row in range(rows):
    core.submit(request(f"row {row}", _OWN_PROMPT, output))
  gaps, waits = _Gaps(core, clock), []
  gaps.until(lambda: core.log.recent and core.log.recent[-1].rows == rows)
  for index in range(prompts + 1):
    until = core.log.steps + quiet
    gaps.until(lambda until=until: core.log.steps >= until)
    arrived, name = clock(), f"prompt {index}"
    core.submit(request(name, prompt, 1))
    gaps.until(lambda name=name: gaps.newest == name)
    waits.append(clock() - arrived)
    if not index:
      gaps.found.clear()
      waits.clear()
  pure = statistics.median(gap.seconds for gap in gaps.found if not gap.chunk_tokens)
  itl = percentiles([gap.seconds for gap in gaps.found])
  return ArrivingPrompts(
    rows=rows,
    prompt=prompt,
    step_ms=settings.step_ms,
    pure_ms=pure * 1e3,
    itl_p50_ms=itl.p50,
    itl_p99_ms=itl.p99,
    over_pure=itl.p99 / (pure * 1e3),
    ttft_ms=statistics.median(waits) * 1e3,
  )


_OWN_PROMPT = 32


class _Gaps:
  """Steps an engine and notes the times between its steps' ends; all decoding rows get their tokens then.

  Attributes:
    found: the gaps so far.
    newest: the last request that ended.
  """

  def __init__(self, core: EngineCore, clock: Callable[[], float]):
    self._core, self._clock = core, clock
    self._last: float | None = None
    self.found: list[_Gap] = []
    self.newest = ""

  def until(self, done: Callable[[], object]) -> None:
    """Steps until something holds.

    Raises:
      RuntimeError: the engine has nothing left to do before that.
    """
    while not done():
      if self._core.idle:
        raise RuntimeError("the decoding rows have ended before all prompts have arrived")
      before = self._core.log.steps
      for piece in self._core.step():
        self.newest = piece.request_id if piece.finished else self.newest
      if self._core.log.steps > before:
        now = self._clock()
        if self._last is not None:
          self.found.append(_Gap(now - self._last, self._core.log.recent[-1].chunk_tokens))
        self._last = now
