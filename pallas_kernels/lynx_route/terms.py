"""On what terms rows and experts enter a keep set: the say of a row, the cost of an expert, and experts that are free.

Says and costs are integers, relative to the largest. So sums over rows or experts come out the same in any order, and
rows with equal weights, or experts with equal costs, give what they give without weights or costs, bit for bit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float32, Int32

from pallas_kernels.dims import Array, ExpertMask, RowMask

# The say of the row with the largest weight.
WHOLE_SAY = 256


class Terms(NamedTuple):
  """What changes the weight of a row, or the price of an expert; each is None where all are alike.

  Attributes:
    say: int32 [T], a row's weight in 256ths of the largest weight of a voting row.
    cost: int32 [E], what reading an expert costs, at least 1; `cost_unit(E)` is the cost of the dearest expert.
    free: bool [E], experts that are read anyway, because rows outside the vote run them.
  """

  say: Int32[Array, "T"] | None = None
  cost: Int32[Array, "E"] | None = None
  free: ExpertMask | None = None


def heaviest(weight: Float32[Array, "T"], adaptive: RowMask) -> Float32[Array, ""]:
  """The largest weight of an adaptive row, at least 0."""
  return jnp.max(jnp.where(adaptive, weight, 0.0), initial=0.0)


def says(weight: Float32[Array, "T"], adaptive: RowMask, top: Float32[Array, ""] | None = None) -> Int32[Array, "T"]:
  """Weights as whole 256ths of the largest weight of an adaptive row; all 256 if no adaptive row has weight.

  `top` is that weight, where `weight` holds some of the rows.
  """
  top = heaviest(weight, adaptive) if top is None else top
  positive_T = jnp.where(adaptive, jnp.maximum(weight, 0.0), 0.0)
  return _rounded(_relative(positive_T, top) * WHOLE_SAY)


def _relative(values: Float32[Array, "..."], top: Float32[Array, ""]) -> Float32[Array, "..."]:
  """`values / top`, or ones where `top` is 0."""
  return jnp.where(top > 0.0, values / jnp.where(top > 0.0, top, 1.0), 1.0)


def _rounded(values: Float32[Array, "..."]) -> Int32[Array, "..."]:
  """The nearest whole numbers, of two the even one, as `jnp.round` gives them, which GPU kernels do not have."""
  lower = jnp.floor(values)
  whole, rest = lower.astype(jnp.int32), values - lower
  return whole + ((rest > 0.5) | ((rest == 0.5) & (whole & 1 != 0))).astype(jnp.int32)


def weighted(values: Int32[Array, "..."], say: Int32[Array, "..."]) -> Int32[Array, "..."]:
  """`values * say / 256`, rounded down, without overflow; exactly `values` where the say is 256."""
  return (values >> 8) * say + (((values & 255) * say) >> 8)


def cost_unit(experts: int) -> int:
  """The integer cost of the dearest expert: a power of two of which E fit an int32, exact in float32."""
  return 1 << min(20, 30 - experts.bit_length())


def costs(cost: Float32[Array, "E"]) -> Int32[Array, "E"]:
  """Costs in units of the dearest expert's, as integers; negative ones count as 0, and 0 as the least there is."""
  positive_E = jnp.maximum(cost, 0.0)
  return jnp.maximum(_rounded(_relative(positive_E, jnp.max(positive_E)) * cost_unit(cost.shape[0])), 1)


def total_cost(experts: ExpertMask, cost: Int32[Array, "E"] | None) -> Int32[Array, ""]:
  """What reading a set of experts costs: how many they are, or the sum of their integer costs."""
  return jnp.sum(experts if cost is None else jnp.where(experts, cost, 0), dtype=jnp.int32)


def in_units(limit: int | Array, experts: int, cost: Int32[Array, "E"] | None) -> int | Int32[Array, ""]:
  """A limit on experts, or on the cost of the dearest, as a limit on `total_cost`; whole units, rounded down."""
  if cost is None:
    if isinstance(limit, int):
      return limit
    return jnp.floor(jnp.clip(limit.astype(jnp.float32), 0.0, float(experts))).astype(jnp.int32)
  if isinstance(limit, int):
    return min(limit, experts) * cost_unit(experts)
  return jnp.floor(jnp.clip(limit.astype(jnp.float32), 0.0, float(experts)) * cost_unit(experts)).astype(jnp.int32)


def best_per_cost(gain_E: Int32[Array, "E"], cost: Int32[Array, "E"] | None) -> Int32[Array, ""]:
  """The expert of largest gain per cost; ties go to the larger gain, then to the lowest index."""
  if cost is not None:
    per_cost_E = gain_E.astype(jnp.float32) / cost.astype(jnp.float32)
    gain_E = jnp.where(per_cost_E == jnp.max(per_cost_E), gain_E, jnp.iinfo(jnp.int32).min)
  return jax.lax.argmax(gain_E, 0, jnp.int32)
