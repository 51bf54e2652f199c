"""The arguments of `lynx_route`, and the checks that name the first one that cannot work."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from pallas_kernels.dims import RouterLogits, RowMask, SelectionBias
from pallas_kernels.lynx_route.policy import RoutingPolicy
from pallas_kernels.lynx_route.router import Router


class RouteArrays(NamedTuple):
  """What every implementation of the op computes from.

  Attributes:
    logits: router logits [T, E] of any float dtype.
    valid: [T], the rows that count.
    selection_bias: [E], added to a sigmoid router's gates where experts are chosen; None for none.
  """

  logits: RouterLogits
  valid: RowMask
  selection_bias: SelectionBias | None


def check_arguments(logits: Any, top_k: Any, policy: Any, router: Any, valid: Any, selection_bias: Any) -> None:
  """ValueError that names the first argument of `lynx_route` that cannot work."""
  if logits.ndim != 2 or not jnp.issubdtype(logits.dtype, jnp.floating):
    raise ValueError(
      f"logits is {logits.dtype}{list(logits.shape)}; give floating router logits of shape [rows, experts]"
    )
  rows, num_experts = logits.shape
  if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= num_experts:
    raise ValueError(f"top_k = {top_k!r} is not an int from 1 to the number of experts, {num_experts}")
  if not isinstance(policy, RoutingPolicy):
    hint = "use parse_policy to read one from text" if isinstance(policy, str) else "such as TopK()"
    raise ValueError(f"policy = {policy!r} is not a RoutingPolicy instance; {hint}")
  if not isinstance(router, Router):
    raise ValueError(f"router = {router!r} is not a Router; give Router(renormalize=...)")
  router.check_sizes(num_experts, top_k)
  policy.experts_per_token(top_k)
  if valid is not None and (valid.shape != (rows,) or valid.dtype != jnp.bool_):
    raise ValueError(f"valid is {valid.dtype}{list(valid.shape)}; give bool[{rows}], one flag per row of logits")
  if selection_bias is not None and (selection_bias.shape != (num_experts,) or selection_bias.dtype != jnp.float32):
    raise ValueError(
      f"selection_bias is {selection_bias.dtype}{list(selection_bias.shape)}; give float32[{num_experts}]"
    )
  if selection_bias is not None and router.scoring != "sigmoid":
    raise ValueError(f"selection_bias goes with sigmoid gates, not with router = {router}; leave it out")
