"""Everything that changes while a batch decodes, as one explicit pytree."""

import dataclasses
import enum

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from lynx_jax.engine.sampling import Samplers, Sampling, samplers
from lynx_jax.models.parts import LayerCache


class Finish(enum.IntEnum):
  """Why a row ended."""

  RUNNING = 0
  STOP = 1
  LENGTH = 2
  NOT_FINITE = 3
  ABSENT = 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Requests:
  """What each row asks for: how to draw tokens, how many (`max_new_tokens`), and which ids end it (-1 is none)."""

  samplers: Samplers
  max_new_tokens: Int32[Array, "B"]
  stop_ids: Int32[Array, "B S"]


def greedy_requests(rows: int, max_new_tokens: int, stop_ids: tuple[int, ...] = ()) -> Requests:
  """Requests of `rows` rows that all take the most likely token."""
  stops = jnp.asarray(stop_ids or (-1,), jnp.int32)
  return Requests(
    samplers=samplers(Sampling(), rows),
    max_new_tokens=jnp.full((rows,), max_new_tokens, jnp.int32),
    stop_ids=jnp.broadcast_to(stops, (rows, stops.shape[0])),
  )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RoutingTotals:
  """Sums over decode steps, one entry a MoE layer; means follow on dividing by `steps` or `rows`.

  Attributes:
    steps: steps counted (those with at least one running row).
    rows: running rows, summed over steps.
    active: distinct experts run, summed over steps.
    own_active: distinct experts that the model's own routing would have run at the same steps.
    retained: retained mass (1 is unchanged), summed over rows and steps.
    worst_retained: the smallest retained mass of any row.
  """

  steps: Int32[Array, ""]
  rows: Int32[Array, ""]
  active: Int32[Array, "M"]
  own_active: Int32[Array, "M"]
  retained: Float32[Array, "M"]
  worst_retained: Float32[Array, "M"]


def no_totals(moe_layers: int) -> RoutingTotals:
  """Totals before the first step."""
  none = jnp.zeros((moe_layers,), jnp.int32)
  return RoutingTotals(
    steps=jnp.zeros((), jnp.int32),
    rows=jnp.zeros((), jnp.int32),
    active=none,
    own_active=none,
    retained=jnp.zeros((moe_layers,), jnp.float32),
    worst_retained=jnp.ones((moe_layers,), jnp.float32),
  )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
  """A batch in flight.

  Attributes:
    cache: what attention remembers, one `LayerCache` a layer.
    lengths: positions of each row that the cache holds, in tokens.
    token: the newest token of each row, not yet in the cache.
    output: the new tokens of each row, in order; only the first `generated` are meaningful.
    generated: new tokens so far.
    finish: a `Finish` a row.
    requests: what each row asked for.
    totals: routing statistics, or None where they are not wanted (then they cost nothing).
  """

  cache: tuple[LayerCache, ...]
  lengths: Int32[Array, "B"]
  token: Int32[Array, "B"]
  output: Int32[Array, "B C"]
  generated: Int32[Array, "B"]
  finish: Int32[Array, "B"]
  requests: Requests
  totals: RoutingTotals | None = None

  @property
  def running(self) -> Bool[Array, "B"]:
    """Rows that want another token; the others are invalid rows to routing and experts."""
    return self.finish == Finish.RUNNING

  @property
  def capacity(self) -> int:
    """Positions that the cache has room for."""
    return self.output.shape[1]
