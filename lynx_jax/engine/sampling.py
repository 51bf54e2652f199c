"""How the next token is drawn from the logits, row by row."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from lynx_jax.engine.host.sampling import Sampling
from pallas_kernels import greedy_token


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samplers:
  """The settings of all rows, as arrays, so that they are data to a compiled step; `key` is a raw threefry key."""

  temperature: Float32[Array, "B"]
  top_k: Int32[Array, "B"]
  top_p: Float32[Array, "B"]
  min_p: Float32[Array, "B"]
  key: UInt32[Array, "B 2"]


def samplers(settings: Sampling | Sequence[Sampling], rows: int) -> Samplers:
  """Lays out `settings` for `rows` rows; one `Sampling` serves all, row i with random stream i, counted from its own.

  A sequence shorter than `rows` is filled with greedy rows.
  """
  if isinstance(settings, Sampling):
    each = [dataclasses.replace(settings, stream=(settings.stream + row) % 2**32) for row in range(rows)]
  else:
    each = [*settings, *[Sampling()] * (rows - len(settings))]
  seeds = np.array([s.seed for s in each], np.uint32)
  keys = jax.vmap(lambda seed, stream: jax.random.key_data(jax.random.fold_in(jax.random.key(seed), stream)))(
    seeds, np.array([s.stream for s in each], np.uint32)
  )

  def column(name: str, dtype: type) -> jax.Array:
    return jnp.asarray(np.array([getattr(s, name) for s in each], dtype))

  return Samplers(
    temperature=column("temperature", np.float32),
    top_k=column("top_k", np.int32),
    top_p=column("top_p", np.float32),
    min_p=column("min_p", np.float32),
    key=keys,
  )


class LogitChanges(NamedTuple):
  """Logits that rows change before they draw; an id outside the vocabulary stands for none.

  Attributes:
    ids: tokens, each once in a row.
    scale: what divides their logits where they are positive, and multiplies them elsewhere.
    add: what is then added.
  """

  ids: Int32[Array, "B A"]
  scale: Float32[Array, "B A"]
  add: Float32[Array, "B A"]


class LogitEdits(NamedTuple):
  """What rows do to their logits before they draw, in this order; nothing is made unless some row asks for it.

  Attributes:
    changed: whether any row changes logits.
    changes: makes what rows change.
    masked: whether any row may draw some tokens only.
    allowed: makes what rows may draw.
  """

  changed: Bool[Array, ""]
  changes: Callable[[], LogitChanges]
  masked: Bool[Array, ""]
  allowed: Callable[[], Bool[Array, "B V"]]

  @property
  def asked(self) -> Bool[Array, ""]:
    """Whether any row asks for something."""
    return self.changed | self.masked

  def __call__(self, logits_BV: Float32[Array, "B V"]) -> Float32[Array, "B V"]:
    """The logits that rows draw from."""
    changed = jax.lax.cond(self.changed, lambda: _changed(logits_BV, self.changes()), lambda: logits_BV)
    return jax.lax.cond(self.masked, lambda: jnp.where(self.allowed(), changed, -jnp.inf), lambda: changed)


class Drawn(NamedTuple):
  """The next token of each row.

  Attributes:
    ids: token ids.
    finite: whether all of the row's logits are finite; where they are not, the id means nothing.
  """

  ids: Int32[Array, "B"]
  finite: Bool[Array, "B"]


def sample(
  logits_BV: Float32[Array, "B V"],
  rows: Samplers,
  index_B: Int32[Array, "B"],
  edits: LogitEdits | None = None,
) -> Drawn:
  """Draws the next token of each row.

  Rows at temperature 0 take the largest logit (the lowest id among equals). What one row asks for never changes
  another row's token.

  Args:
    logits_BV: scores of the next token.
    rows: how each row draws.
    index_B: tokens that each row has drawn before; it picks the row's random number.
    edits: what rows do to their logits first; None is nothing.
  """
  greedy = greedy_token(logits_BV)
  warm = rows.temperature > 0

  def draw(_: None) -> jax.Array:
    known, cold = logits_BV, greedy.ids
    if edits is not None:
      known = edits(logits_BV)
      cold = jax.lax.cond(edits.asked, lambda: jnp.argmax(known, axis=-1).astype(jnp.int32), lambda: greedy.ids)
    scaled = known / jnp.where(warm, rows.temperature, 1.0)[:, None]
    return jnp.where(warm, _draw(_filter(scaled, rows), rows.key, index_B), cold)

  asked = jnp.any(warm) if edits is None else jnp.any(warm) | edits.asked
  return Drawn(jax.lax.cond(asked, draw, lambda _: greedy.ids, None), greedy.finite)


def _changed(logits_BV: jax.Array, changes: LogitChanges) -> jax.Array:
  """The logits with what rows change in them."""
  rows = jnp.arange(logits_BV.shape[0])[:, None]
  old = jnp.take_along_axis(logits_BV, jnp.minimum(changes.ids, logits_BV.shape[1] - 1), axis=1)
  new = jnp.where(old > 0, old / changes.scale, old * changes.scale) + changes.add
  return logits_BV.at[rows, changes.ids].set(new, mode="drop")


def _filter(logits_BV: jax.Array, rows: Samplers) -> jax.Array:
  """Sets the logits that top-k, top-p and min-p exclude to -inf."""
  sorting = (rows.temperature > 0) & ((rows.top_k > 0) | (rows.top_p < 1))
  floor = jax.lax.cond(
    jnp.any(sorting),
    lambda _: jnp.where(sorting, _sorted_floor(logits_BV, rows), -jnp.inf),
    lambda _: jnp.full(logits_BV.shape[:1], -jnp.inf, jnp.float32),
    None,
  )
  # log(0) is -inf: a min_p of 0 keeps all. Relative to the maximum, no renormalisation is needed.
  relative = jnp.max(logits_BV, axis=-1) + jnp.log(rows.min_p)
  kept = logits_BV >= jnp.maximum(floor, relative)[:, None]
  return jnp.where(kept, logits_BV, -jnp.inf)


def _sorted_floor(logits_BV: jax.Array, rows: Samplers) -> jax.Array:
  """The smallest logit that top-k, then top-p among what is left, keep."""
  descending = -jnp.sort(-logits_BV, axis=-1)
  rank = jnp.arange(logits_BV.shape[1])[None, :]
  kept = (rank < rows.top_k[:, None]) | (rows.top_k == 0)[:, None]
  share = jax.nn.softmax(jnp.where(kept, descending, -jnp.inf), axis=-1)
  before = jnp.cumsum(share, axis=-1) - share
  kept &= (before < rows.top_p[:, None]) | (rows.top_p >= 1)[:, None]
  return jnp.min(jnp.where(kept, descending, jnp.inf), axis=-1)


def _draw(logits_BV: jax.Array, key: jax.Array, index_B: jax.Array) -> jax.Array:
  """Inverts the cumulative distribution in vocabulary order, at one uniform number a row."""

  def uniform(key_data: jax.Array, index: jax.Array) -> jax.Array:
    return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key_data), index))

  cumulative = jnp.cumsum(jax.nn.softmax(logits_BV, axis=-1), axis=-1)
  total = cumulative[:, -1]
  # Rounding may put the product at the total itself, past every token.
  target = jnp.minimum(jax.vmap(uniform)(key, index_B) * total, jnp.nextafter(total, jnp.zeros_like(total)))
  return jnp.argmax(cumulative > target[:, None], axis=-1).astype(jnp.int32)
