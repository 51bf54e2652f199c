"""Serves one load under several policies, with the engine and in fixed batches, in turns."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from lynx_jax.bench.engine.figures import EngineFigures, StaticFigures, engine_figures, static_figures
from lynx_jax.bench.engine.load import Load, TimedRequest, positions_of, with_context
from lynx_jax.bench.engine.serve import Served, serve
from lynx_jax.bench.engine.static_batches import StaticBatches, static_cache_bytes
from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy, TopK, format_policy
from pallas_kernels.checks import require


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
  """One policy's turn.

  Attributes:
    policy: as text.
    repeat: which turn, from 0.
    engine: what the engine did with the load.
    static: what fixed batches did with it, under the same policy; None if they were not asked for.
    over_static: the engine's tokens a second over those of fixed batches.
  """

  policy: str
  repeat: int
  engine: EngineFigures
  static: StaticFigures | None
  over_static: float | None


def bench_load(
  params: Params,
  load: Load,
  policies: Sequence[RoutingPolicy],
  settings: EngineSettings,
  *,
  static: int | None = None,
  same_memory: bool = False,
  repeats: int = 1,
  progress: Callable[[str], None] = lambda message: None,
) -> Iterator[LoadRow]:
  """Measures every policy in every turn; yields a row as soon as it is done.

  Programs are compiled, and run once, outside of what is timed. Each run of the engine begins with an empty cache.

  Args:
    params: the model.
    load: its requests are the same in all runs.
    policies: of the engine's adaptive rows, and of the batches' decode steps; `TopK()` is the model's own routing.
    settings: of the engine; its policy is set here, and its context where it is too small.
    static: rows of a fixed batch, or None for no fixed batches.
    same_memory: whether the engine's cache has no more memory than that of a fixed batch, whatever its slots.
    repeats: turns.
    progress: called with a line on what goes on.

  Raises:
    ValueError: the longest request does not fit the model's context, or `same_memory` has no fixed batch.
  """
  timed = load.timed_requests(params.spec.vocab)
  settings = with_context(settings, positions_of(timed), params.spec)
  if same_memory:
    require(static is not None, "same_memory", same_memory, "False where there are no fixed batches")
    settings = dataclasses.replace(settings, kv_bytes=static_cache_bytes(params, timed, static or 0))
  for repeat in range(repeats):
    for policy in policies:
      name = f"{format_policy(policy)}, turn {repeat + 1} of {repeats}"
      own = own_or_none(policy)
      progress(f"{name}: the engine")
      served = _by_engine(params, timed, dataclasses.replace(settings, policy=own), load.seed)
      engine = engine_figures(served, own_routing=own is None)
      batches = None
      if static is not None:
        progress(f"{name}: batches of {static}")
        opponent = StaticBatches(params, timed, rows=static, policy=own)
        opponent.warm_up()
        batches = static_figures(opponent.run())
      ratio = None if batches is None else engine.tokens_per_second / batches.tokens_per_second
      yield LoadRow(policy=format_policy(policy), repeat=repeat, engine=engine, static=batches, over_static=ratio)


def own_or_none(policy: RoutingPolicy) -> RoutingPolicy | None:
  """A policy as engines take it, whose None is the model's own routing."""
  return None if policy == TopK() else policy


def _by_engine(params: Params, timed: Sequence[TimedRequest], settings: EngineSettings, seed: int) -> Served:
  """A new engine serves the load, after a few short requests of other tokens."""
  core = EngineCore(params, settings)
  core.warm_up()
  prompt, output = ((length, length) for length in _WARM)
  first = Load(requests=settings.slots, prompt=prompt, output=output, seed=(seed + 1) % 2**32)
  serve(core, first.timed_requests(params.spec.vocab))
  return serve(core, timed)


_WARM = (16, 8)
"""Tokens of the prompts and outputs that warm an engine up; any engine holds a block of positions."""
