"""The engine without a thread: requests in, pieces out, one step at a time."""

import collections
import time
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax
import numpy as np

from lynx_jax.engine.cache_room import blocks_for
from lynx_jax.engine.host.admission import Admission
from lynx_jax.engine.host.chunking import Chunking
from lynx_jax.engine.host.limits import Limits
from lynx_jax.engine.host.load import BudgetRule, ExpertBudget, StepTimes
from lynx_jax.engine.host.order import FirstCome, PrefixFirst
from lynx_jax.engine.host.request import Piece, Request
from lynx_jax.engine.host.scheduler import Scheduler
from lynx_jax.engine.host.stats import HostStats
from lynx_jax.engine.host.step_plan import BLOCK_SIZE, StepResult
from lynx_jax.engine.paged.executor import Executor, Pending, StepCounts
from lynx_jax.engine.paged.step_shape import StepShape
from lynx_jax.engine.paged.steps import StepSettings
from lynx_jax.engine.request_times import RequestTimes
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.engine.step_log import StepLog, StepRecord
from lynx_jax.models.params import Params
from lynx_jax.models.rope import short_context
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.routing import RoutingPolicy
from pallas_kernels.checks import require

_CHUNK_STEPS = 1.7
"""How long steps that read prompts beside decode rows are meant to take, in decode steps (`EngineSettings.step_ms`)."""
UpdateMode: TypeAlias = Literal["keep", "wait", "abort"]
"""What becomes of requests that run when the weights are replaced."""


class EngineDead(RuntimeError):  # noqa: N818 (a state)
  """The engine has failed and answers nothing any more; the cause is chained."""


class EngineCore:
  """Continuous batching over a paged cache, driven by its caller: `submit`, then `step` until it is `idle`.

  On a GPU one step runs while the next is planned (`EngineSettings.run_ahead`). No method may be called from two
  threads at a time.

  Attributes:
    params: the weights that run.
    settings: as given.
    limits: what follows from them.
    log: what the steps did.
    stuck: whether the last `step` had nothing to do; then none has, until something is submitted, aborted or resumed.
  """

  def __init__(
    self, params: Params, settings: EngineSettings = EngineSettings(),  # noqa: B008 (frozen)
    *, recovers: bool = True, clock: Callable[[], float] = time.perf_counter,
  ):  # fmt: skip
    """Allocates the cache; compiles nothing until `warm_up` or the first step that needs it.

    Args:
      params: the model.
      settings: what the engine has room for.
      recovers: whether the engine outlives one failure of the device; if not, the device's error is raised.
      clock: seconds, for the log and the controller.

    Raises:
      ValueError: a setting that does not fit the model.
      OutOfMemoryError: the cache does not fit in memory.
    """
    spec, positions = params.spec, settings.positions(params.spec)
    policy = checked_policy(settings.policy, spec)
    self.params, self.settings, self._clock, self._recovers = params, settings, clock, recovers
    table = -(-positions // BLOCK_SIZE)
    blocks = blocks_for(params, settings.slots, table, settings.kv_bytes)
    programs = settings.step_programs
    self.limits = _limits(spec, settings, policy, blocks)
    target = None if settings.step_ms is None else settings.step_ms / 1e3
    experts = sum(moe.experts for moe in spec.moe_specs)
    self._times = None if target is None else StepTimes(experts=experts, tokens=programs.mixed[-1])
    self._chunking = _chunking(target, experts)
    self._scheduler = Scheduler(
      self.limits,
      decoder=params.tokenizer,
      order=PrefixFirst() if settings.prefix_first else FirstCome(),
      admission=Admission(),
      chunking=self._chunking,
      times=self._times,
      prompts_first=settings.prompts_first,
    )
    self._fewer = policy is not None and any(policy.experts_per_token(moe.top_k) != moe.top_k for moe in spec.moe_specs)
    self._budget = _budget(spec, policy, target, settings, self._times)
    step = StepSettings(
      policy=policy,
      limited=self._budget is not None,
      stats=settings.stats or self._budget is not None,
      routing=settings.routing,
      readers=settings.readers,
      prompts_apart=settings.prompts_first or settings.deterministic,
    )
    self._executor = Executor(
      params.decoder, step, blocks=blocks, slots=settings.slots, table=table,
      decode=programs.decode, mixed=programs.mixed, directory=settings.programs, clock=clock,
    )  # fmt: skip
    self._request_times = RequestTimes(clock)
    self._ahead = settings.steps_ahead
    self._pending: collections.deque[tuple[Pending, float]] = collections.deque()
    self._last_commit = 0.0
    self._failures = 0
    self.log = StepLog(len(spec.moe_layers))
    self.stuck = True

  def warm_up(self, progress: Callable[[StepShape, int, int], None] = lambda shape, done, total: None) -> None:
    """Compiles all step programs, or takes them from the disk; `progress` hears of each: shape, done, total."""
    self._executor.warm_up(progress)

  @property
  def programs_ready(self) -> tuple[str, ...]:
    """The step programs that are compiled, such as `decode[16]`. May be read in any thread."""
    return tuple(shape.name for shape in self._executor.programs.ready)

  @property
  def idle(self) -> bool:
    """Whether there is nothing to do: no request waits or runs, and no step is in flight."""
    stats = self._scheduler.stats()
    return not (stats.waiting or stats.running or self._pending)

  @property
  def version(self) -> int:
    """Of the weights that the next step runs with; 0 are the first."""
    return self._scheduler.weights

  def stats(self) -> HostStats:
    """What is waiting, running, held and cached now."""
    return self._scheduler.stats()

  def submit(self, request: Request) -> None:
    """Lets a request wait for its turn.

    Raises:
      ValueError: it can never run here; the message names the field and the remedy.
      Overloaded: too many requests wait, or the engine drains.
    """
    where = f"quality of request {request.id!r}"
    remedy = "under the engine's policy all decoding rows run fewer experts than the model's own"
    require(not self._fewer or request.quality != "exact", where, request.quality, "another than 'exact'", remedy)
    where = f"return_routing of request {request.id!r}"
    remedy = "start the engine with EngineSettings(routing=True)"
    require(self.settings.routing or not request.return_routing, where, request.return_routing, "False", remedy)
    self._scheduler.submit(request)
    self._request_times.begin(request.id)

  def abort(self, request_id: str) -> Piece | None:
    """Ends a request now; returns its last piece, or None if there is no such request."""
    piece = self._scheduler.abort(request_id)
    return None if piece is None else self._request_times.stamp([piece])[0]

  def step(self) -> list[Piece]:
    """Gives the device the next step, if there is one, and takes the result of an earlier one.

    Returns:
      What requests got; nothing if the only step was just given to the device.

    Raises:
      EngineDead: the device has failed twice in a row.
    """
    ahead = self._scheduler.run_ahead(self._ahead)
    try:
      planned = len(self._pending) <= ahead and self._dispatch()
      self.stuck = not planned and not self._pending
      if self._pending and (not planned or len(self._pending) > ahead):
        return self._commit()
    except jax.errors.JaxRuntimeError as error:
      self._recover(error)
    return []

  def run(self) -> list[Piece]:
    """Steps until the engine is idle; returns all pieces."""
    pieces: list[Piece] = []
    while not self.idle:
      pieces += self.step()
    return pieces

  def pause(self, paused: bool = True) -> None:
    """Lets requests that never ran go on waiting, or ends that."""
    self._scheduler.paused = paused
    self.stuck = False

  @property
  def started(self) -> bool:
    """Whether a request runs, or did before it lost its blocks, or a step is in flight."""
    return bool(self._pending or self._scheduler.started)

  def drain(self) -> None:
    """Refuses new requests from now on."""
    self._scheduler.draining = True

  def check_weights(self, params: Params) -> None:
    """Raises ValueError if `update_weights` could not take these: another structure, shape or dtype."""
    self._executor.check(params.decoder)

  def update_weights(self, params: Params, *, mode: UpdateMode = "keep", recompute: bool = True) -> list[Piece]:
    """Runs all later steps with other weights of the same shapes; nothing is compiled.

    Args:
      params: the new weights.
      mode: what becomes of requests that run. `keep`: they go on with the new weights. `wait`: they end first, with
        the old ones, and no other begins. `abort`: they end now, with the reason `abort`. Requests that wait run with
        the new weights in any case.
      recompute: whether requests that go on compute their positions again with the new weights. If not, they go on
        from what the old weights computed, and share it with nobody.

    Returns:
      Pieces of the steps on the way, and of the requests that were aborted.

    Raises:
      ValueError: the weights have another structure, shape or dtype, or there is no such mode; nothing has changed.
    """
    require(mode in get_args(UpdateMode), "mode", mode, f"one of {', '.join(get_args(UpdateMode))}")
    self.check_weights(params)
    pieces: list[Piece] = []
    if mode == "wait":
      paused = self._scheduler.paused
      self.pause()
      while self.started:
        pieces += self.step()
      self.pause(paused)
    while self._pending:
      try:
        pieces += self._commit()
      except jax.errors.JaxRuntimeError as error:
        self._recover(error)
    if mode == "abort":
      pieces += [piece for name in self._scheduler.started if (piece := self.abort(name))]
    self.stuck = False
    self._executor.swap(params.decoder)
    self.params = params
    self._scheduler.update_weights(self._scheduler.weights + 1, recompute=recompute)
    return pieces

  def _dispatch(self) -> bool:
    """Plans a step and gives it to the device; False if there is none."""
    start = self._clock()
    plan = self._scheduler.plan(None if self._budget is None else self._budget.limit)
    if plan is None:
      return False
    pending = self._executor.dispatch(plan)
    now = self._clock()
    self._pending.append((pending, now))
    self.log.dispatch_seconds += pending.dispatch_seconds
    self.log.host_seconds += now - start - pending.dispatch_seconds
    return True

  def _commit(self) -> list[Piece]:
    """Waits for the oldest step in flight and hands on what it drew."""
    pending, dispatched = self._pending.popleft()
    pending.results.block_until_ready()
    now = self._clock()
    result, counts = self._executor.fetch(pending)
    # A step begins when it was given to the device, or when the step before it ended.
    seconds = now - max(dispatched, self._last_commit)
    self._last_commit = now
    self._observe(pending, result, counts, seconds)
    pieces = self._request_times.stamp(self._scheduler.commit(result))
    self._failures = 0
    self.log.host_seconds += self._clock() - now
    return pieces

  def _observe(self, pending: Pending, result: StepResult, counts: StepCounts, seconds: float) -> None:
    plan = pending.plan
    rows, chunk_tokens = len(plan.rows), plan.tokens - len(plan.rows)
    experts = sum(result.experts)
    if self._times is not None:
      padded = chunk_tokens and self._chunking.padding_costs
      self._times.observe(experts, plan.program.size if padded else plan.tokens, seconds)
    if self._budget is not None and not plan.chunks:
      self._budget.observe(experts, rows, seconds, result.retained)
    self.log.add(StepRecord(
      rows=rows, chunk_tokens=chunk_tokens, program=str(plan.program), limit=plan.limit, seconds=seconds,
      experts=result.experts, own_experts=result.own_experts, retained=result.retained,
      readers=_as_bytes(counts.readers),
    ), counts)  # fmt: skip

  def _recover(self, error: RuntimeError) -> None:
    """After a failure of the device: an empty cache, and all that ran is computed again; the second one is the end."""
    if not self._recovers:
      raise error
    self._failures += 1
    self.stuck = False
    if self._failures > 1:
      raise EngineDead(f"the engine has failed twice in a row: {error}") from error
    self.log.recoveries += 1
    self._pending.clear()
    self._executor.recover()
    self._scheduler.recover()


def _as_bytes(readers: np.ndarray | None) -> np.ndarray | None:
  """A copy that keeps no more of the step's results than it holds."""
  return None if readers is None else readers.astype(np.uint8)


def checked_policy(policy: RoutingPolicy | str | None, spec: DecoderSpec) -> RoutingPolicy | None:
  """The policy, which must serve every layer of the model.

  Raises:
    ValueError: a knob that does not fit some layer.
  """
  if policy is None:
    return None
  assert not isinstance(policy, str)
  for moe in spec.moe_specs:
    policy.check_sizes(moe.experts, moe.top_k)
  return policy


def _limits(spec: DecoderSpec, settings: EngineSettings, policy: RoutingPolicy | None, blocks: int) -> Limits:
  """What the scheduler must know of the model and the settings."""
  programs = settings.step_programs
  return Limits(
    blocks=blocks,
    slots=settings.slots,
    context=settings.positions(spec),
    vocab=spec.vocab,
    programs=programs,
    eos_ids=frozenset(spec.stop_ids),
    policy="" if policy is None else repr(policy),
    canonical_chunk=programs.mixed[0] if settings.deterministic else None,
    short_prompt=short_context(layer.attention.rotary for layer in spec.layers),
    most_waiting=settings.most_waiting,
    most_waiting_tokens=settings.most_waiting_tokens,
  )


def _chunking(target: float | None, experts: int) -> Chunking:
  """How long chunks are, for a target of so many seconds a decode step. Padding costs nothing in native code."""
  return Chunking(
    target=None if target is None else _CHUNK_STEPS * target,
    experts=experts,
    least_fill=0.0 if jax.default_backend() == "cpu" else 0.5,
  )


def _budget(
  spec: DecoderSpec,
  policy: RoutingPolicy | None,
  target: float | None,
  settings: EngineSettings,
  times: StepTimes | None,
) -> ExpertBudget | None:
  """The controller of the experts' limit, where there is something to control."""
  if policy is None or target is None or times is None or not spec.moe_specs:
    return None
  rule = BudgetRule(
    target=target,
    layers=len(spec.moe_specs),
    experts=max(moe.experts for moe in spec.moe_specs),
    top_k=max(moe.top_k for moe in spec.moe_specs),
    least_retained=settings.least_retained,
  )
  return ExpertBudget(rule, times)
