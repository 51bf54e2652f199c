"""The arguments of `lynx_route`, and the checks that name the first one that cannot work."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Float32, Int32

from pallas_kernels.checks import refusal, require
from pallas_kernels.dims import Array, RouterLogits, RowMask, SelectionBias
from pallas_kernels.lynx_route.policy import RoutingPolicy
from pallas_kernels.lynx_route.router import Router


class RouteArrays(NamedTuple):
  """What every implementation of the op computes from.

  Attributes:
    logits: router logits [T, E] of any float dtype.
    valid: [T], the rows that count.
    selection_bias: [E], added to a sigmoid router's gates where experts are chosen; None for none.
    own: [T], rows that run their own experts whatever the others choose; None for none.
    weight: [T], a row's say in the keep set; None where all are alike.
    cost: [E], what reading an expert costs; None where all are alike.
    limit: the most experts that the batch may read, or the most cost; None for no limit.
  """

  logits: RouterLogits
  valid: RowMask
  selection_bias: SelectionBias | None = None
  own: RowMask | None = None
  weight: Float32[Array, "T"] | None = None
  cost: Float32[Array, "E"] | None = None
  limit: Float32[Array, ""] | Int32[Array, ""] | None = None


def check_arguments(arrays: RouteArrays, top_k: Any, policy: RoutingPolicy, router: Any) -> None:
  """ValueError that names the first argument of `lynx_route` that cannot work."""
  logits, valid, selection_bias, own, weight, cost, limit = arrays
  if not (hasattr(logits, "dtype") and hasattr(logits, "shape")):
    raise refusal("logits", logits, "an array of shape [rows, experts]")
  floating = len(logits.shape) == 2 and jnp.issubdtype(logits.dtype, jnp.floating)
  require(floating, "logits", Shape(logits), "floating router logits of shape [rows, experts]")
  rows, experts = logits.shape
  whole = isinstance(top_k, int) and not isinstance(top_k, bool)
  require(whole and 1 <= top_k <= experts, "top_k", top_k, f"an int from 1 to the number of experts, {experts}")
  require(isinstance(router, Router), "router", router, "a Router", "give Router(renormalize=...)")
  router.check_sizes(experts, top_k)
  policy.check_sizes(experts, top_k)
  _check_array("valid", valid, (rows,), "bool", "one flag for each row of logits")
  _check_array("selection_bias", selection_bias, (experts,), "float32", "one number for each expert")
  _check_array("own", own, (rows,), "bool", "one flag for each row of logits")
  _check_array("weight", weight, (rows,), "float32", "one number for each row of logits")
  _check_array("cost", cost, (experts,), "float32", "one number for each expert")
  if own is not None and policy.experts_per_token(top_k) != top_k:
    raise refusal("own", Shape(own), f"None under {policy}", f"own rows run top_k = {top_k} experts")
  if limit is not None and (getattr(limit, "shape", None) != () or limit.dtype not in (jnp.int32, jnp.float32)):
    raise refusal("limit", Shape(limit), "an int32 or float32 scalar", "such as jnp.int32(24)")
  if selection_bias is not None and router.scoring != "sigmoid":
    raise refusal("selection_bias", Shape(selection_bias), f"None with {router}", "it goes with sigmoid gates")


class Shape:
  """An array in a message: its dtype and shape."""

  def __init__(self, array: Any):
    self.text = f"{array.dtype}{list(array.shape)}" if hasattr(array, "dtype") else repr(array)

  def __repr__(self) -> str:
    return self.text


def _check_array(name: str, array: Any, shape: tuple[int, ...], dtype: str, what: str) -> None:
  """ValueError unless `array` is None, or has this shape and dtype."""
  if array is not None:
    ok = getattr(array, "shape", None) == shape and array.dtype == dtype
    require(ok, name, Shape(array), f"{dtype}{list(shape)}, {what}")
