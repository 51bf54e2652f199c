"""What the steps of an engine did, for benchmarks and metrics."""

import collections
import dataclasses

import numpy as np
from jaxtyping import UInt8

from lynx_jax.engine.paged.executor import StepCounts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
  """One step.

  Attributes:
    rows: sequences that decoded a token.
    chunk_tokens: tokens of prompts that were read beside them.
    program: the smallest program that holds the step.
    limit: the most experts that adaptive rows could read, or None.
    seconds: from the end of the step before, or from its own start, to its end.
    experts: distinct experts read, for each MoE layer.
    own_experts: what the model's own routing would have read; empty if not counted.
    retained: worth that adaptive rows kept, in the mean over rows and layers; 1 is unchanged.
    readers: who read each expert of each MoE layer, as bits (`lynx_jax.engine.paged.readers`); None if not asked for.
  """

  rows: int
  chunk_tokens: int
  program: str
  limit: int | None
  seconds: float
  experts: tuple[int, ...]
  own_experts: tuple[int, ...]
  retained: float
  readers: UInt8[np.ndarray, "M E"] | None = None


class StepLog:
  """The newest steps, and sums over all.

  Attributes:
    recent: the newest steps, the oldest first.
    steps: all steps so far.
    rows: decoding rows, summed over steps.
    chunk_tokens: tokens of prompts, summed over steps.
    host_seconds: time that steps took on the host: to plan and pack them, read their results, and make pieces and text.
    dispatch_seconds: time of the calls that gave steps to the device. On a CPU such a call may run part of the step.
    recoveries: failures of the device that the engine outlived.
    decoding: what routing read in the steps that decoded and read no prompts, summed up as a decode loop does; only
      with `EngineSettings.stats`.
  """

  def __init__(self, layers: int, most: int = 4096):
    """Keeps the newest `most` steps of a model with that many MoE layers."""
    self.recent: collections.deque[StepRecord] = collections.deque(maxlen=most)
    self.steps = self.rows = self.chunk_tokens = self.recoveries = 0
    self.host_seconds = self.dispatch_seconds = 0.0
    self.decoding = RoutingSums(layers)

  def add(self, record: StepRecord, counts: StepCounts) -> None:
    """Adds one step."""
    self.recent.append(record)
    self.steps += 1
    self.rows += record.rows
    self.chunk_tokens += record.chunk_tokens
    if counts.own is not None and counts.rows and not record.chunk_tokens:
      self.decoding.add(counts)


class RoutingSums:
  """`RoutingTotals` on the host: sums over decode steps; arrays have one entry for each MoE layer.

  Attributes:
    steps: that were counted.
    rows: of these steps.
    active: distinct experts run.
    own_active: distinct experts that the model's own routing would have run.
    retained: worth that rows retain, summed over rows.
    worst_retained: the least that any row retained.
  """

  def __init__(self, layers: int):
    """Of no step."""
    self.steps = self.rows = 0
    self.active, self.own_active = np.zeros((layers,), np.int64), np.zeros((layers,), np.int64)
    self.retained, self.worst_retained = np.zeros((layers,)), np.ones((layers,))

  def add(self, counts: StepCounts) -> None:
    """Adds a step whose routing was compared with the model's own."""
    assert counts.own is not None
    assert counts.retained is not None
    assert counts.worst is not None
    self.steps += 1
    self.rows += counts.rows
    self.active += counts.active
    self.own_active += counts.own
    self.retained += counts.retained
    self.worst_retained = np.minimum(self.worst_retained, counts.worst)
