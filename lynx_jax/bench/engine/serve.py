"""Serves a load with the engine, in the calling thread, and notes when each token came."""

import collections
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lynx_jax.bench.engine.compilations import Compilations
from lynx_jax.bench.engine.load import TimedRequest
from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.host.request import Piece
from lynx_jax.engine.step_log import StepRecord


class ServedStep(NamedTuple):
  """One step, and what it took on the host. While one step runs the host plans the next, which is counted here too.

  Attributes:
    record: what the step did.
    waste: share of the allocated positions that was not written after it; None if no sequence ran any more.
    host_seconds: to plan, pack, read results, make pieces and text.
    dispatch_seconds: of the call that gives a step to the device.
  """

  record: StepRecord
  waste: float | None
  host_seconds: float
  dispatch_seconds: float


@dataclasses.dataclass(kw_only=True)
class Served:
  """What a load got. Times are seconds after its start.

  Attributes:
    seconds: until the last token.
    arrived: when each request arrived, by its name.
    token_times: when each of a request's tokens was handed out.
    tokens: the tokens themselves.
    steps: what the engine did, step by step.
    preemptions: of sequences that lost their blocks on the way.
    compiled: programs that were compiled meanwhile; a warmed-up engine compiles none.
  """

  seconds: float
  arrived: dict[str, float]
  token_times: dict[str, list[float]]
  tokens: dict[str, list[int]]
  steps: list[ServedStep]
  preemptions: int
  compiled: int


def serve(
  core: EngineCore,
  timed: Sequence[TimedRequest],
  *,
  clock: Callable[[], float] = time.perf_counter,
  sleep: Callable[[float], None] = time.sleep,
) -> Served:
  """Submits each request when its time has come, and steps the engine until all have ended.

  A request that arrives during a step is submitted after it, and its first token is timed from its arrival.

  Args:
    core: an idle engine that is warmed up.
    timed: requests in the order of their arrival.
    clock: seconds.
    sleep: waits for so many seconds, while there is nothing to do before the next arrival.

  Raises:
    RuntimeError: a request did not get all its tokens.
  """
  waiting = collections.deque(timed)
  served = Served(
    seconds=0.0,
    arrived={request.id: at for at, request in timed},
    token_times={request.id: [] for _, request in timed},
    tokens={request.id: [] for _, request in timed},
    steps=[],
    preemptions=-core.stats().preemptions,
    compiled=0,
  )
  log = core.log
  host, dispatch = log.host_seconds, log.dispatch_seconds
  with Compilations() as compilations:
    begin = clock()
    while waiting or not core.idle:
      while waiting and waiting[0].at <= clock() - begin:
        core.submit(waiting.popleft().request)
      if core.idle:
        sleep(max(0.0, waiting[0].at - (clock() - begin)))
        continue
      before = log.steps
      pieces = core.step()
      _note_tokens(served, pieces, clock() - begin)
      if log.steps > before:
        stats = core.stats()
        waste = stats.waste if stats.running else None
        served.steps.append(ServedStep(log.recent[-1], waste, log.host_seconds - host, log.dispatch_seconds - dispatch))
        host, dispatch = log.host_seconds, log.dispatch_seconds
    served.seconds = clock() - begin
  served.preemptions += core.stats().preemptions
  served.compiled = compilations.count
  _check_lengths(served, timed)
  return served


def _note_tokens(served: Served, pieces: Sequence[Piece], now: float) -> None:
  for piece in pieces:
    if piece.finished is not None and piece.finished.reason == "error":
      raise RuntimeError(f"request {piece.request_id} failed: {piece.finished.message}")
    served.token_times[piece.request_id] += [now] * len(piece.token_ids)
    served.tokens[piece.request_id] += piece.token_ids


def _check_lengths(served: Served, timed: Sequence[TimedRequest]) -> None:
  for _, request in timed:
    got = len(served.tokens[request.id])
    if got != request.max_new_tokens:
      raise RuntimeError(f"request {request.id} got {got} of {request.max_new_tokens} tokens")
