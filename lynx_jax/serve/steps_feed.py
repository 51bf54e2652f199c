"""What the engine's steps do, summed up several times a second for whoever watches."""

import asyncio
import base64
import statistics
from collections.abc import AsyncGenerator, Sequence

import numpy as np

from lynx_jax.engine.paged.readers import ADAPTIVE, EXACT, OWN, PROMPTS
from lynx_jax.engine.step_log import StepLog, StepRecord
from lynx_jax.serve.served import Served
from lynx_jax.serve.sse import event
from lynx_jax.serve.wire import ExpertCounts, Steps, encode

PERIOD = 0.2
"""Seconds between events."""
_MOST_TIMES = 60
"""Step times in one event."""


async def step_events(served: Served) -> AsyncGenerator[bytes, None]:
  """Events with what is new since the one before, until the server drains."""
  log = served.engine.core.log
  seen = log.steps
  while served.state != "draining":
    stats = await served.stats(PERIOD)
    new, seen = new_steps(log, seen)
    waiting, running = (0, 0) if stats is None else (stats.waiting, stats.running)
    yield event(encode(summed_up(new, waiting=waiting, running=running)))
    await asyncio.sleep(PERIOD)


def new_steps(log: StepLog, seen: int) -> tuple[list[StepRecord], int]:
  """The steps after the first `seen`, as far as the log still has them, and how many there are by now.

  May run beside the thread that adds steps: one more or less does no harm.
  """
  steps = log.steps
  recent = list(log.recent.copy())
  count = min(steps - seen, len(recent))
  return recent[len(recent) - count :], steps


def summed_up(steps: Sequence[StepRecord], *, waiting: int, running: int) -> Steps:
  """One event: means over the steps and their MoE layers, and in how many steps each expert was read by whom."""
  counted = [step for step in steps if step.experts]
  maps = [step.readers for step in steps if step.readers is not None]
  made = Steps(
    new=len(maps),
    running=running,
    waiting=waiting,
    rows=sum(step.rows for step in steps),
    chunk_tokens=sum(step.chunk_tokens for step in steps),
    step_ms=[round(step.seconds * 1e3, 3) for step in steps[-_MOST_TIMES:]],
    read=statistics.fmean(one for step in counted for one in step.experts) if counted else 0.0,
  )
  compared = [step for step in counted if step.own_experts and step.rows]
  if compared:
    made.retained = statistics.fmean(step.retained for step in compared)
  if maps:
    bits = np.stack(maps)
    made.own = float(((bits & OWN) > 0).sum(axis=-1).mean())
    _, made.layers, made.experts = bits.shape
    made.counts = ExpertCounts(
      prompts=_times(bits & PROMPTS),
      exact=_times(bits & EXACT),
      adaptive=_times(bits & ADAPTIVE),
      saved=_times((bits & OWN) * ((bits & (PROMPTS | EXACT | ADAPTIVE)) == 0)),
    )
  return made


def _times(found: np.ndarray) -> str:
  """In how many steps something was found, for each layer and expert: bytes in base64, at most 255."""
  return base64.b64encode(np.minimum((found > 0).sum(axis=0), 255).astype(np.uint8).tobytes()).decode()
