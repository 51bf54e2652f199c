"""`lynx_route`: router logits of a decode batch in, each row's experts and weights out."""

from typing import Any

import jax
import jax.numpy as jnp

from lynx_jax.routing.base import Router, Routing, RoutingPolicy
from lynx_jax.routing.remap import route_within, settle
from lynx_jax.routing.routers import score_rows, unrestricted
from lynx_jax.routing.topk import TopK
from pallas_kernels.dims import RouterLogits, RowMask, SelectionBias

_RENORMALIZING_SOFTMAX = Router()


def lynx_route(
  logits: RouterLogits,
  top_k: int,
  *,
  policy: RoutingPolicy | None = None,
  router: Router = _RENORMALIZING_SOFTMAX,
  valid: RowMask | None = None,
  selection_bias: SelectionBias | None = None,
) -> Routing:
  """Choose each row's experts under `policy`, with the weights that `router` would give them.

  Pure and jittable with `top_k`, `policy` and `router` static; how many rows are valid is data. Everything is
  computed in float32. Under a batch-aware policy a row's experts depend on its batch mates, so apply one at
  decode, where it saves weight reads, and not at prefill.

  Args:
    logits: router logits [T, E] of any float dtype; valid rows hold no NaN.
    top_k: experts per token of the model's own rule.
    policy: which experts the batch may use; None is `TopK()`, the model's own routing.
    router: the model's own rule.
    valid: bool [T], False for padding and finished rows, which influence nothing; None: every row counts.
    selection_bias: float32 [E], added to the gates of a sigmoid router where it chooses experts, not where it weighs
      them (`e_score_correction_bias` of DeepSeek-V3).

  Returns:
    `Routing`: ids [T, K] and weights [T, K] with K = `policy.experts_per_token(top_k)`, and active [E].

  Raises:
    ValueError: an argument of the wrong shape, dtype or type, or a policy or groups too small for `top_k`.
  """
  policy = TopK() if policy is None else policy
  _check_arguments(logits, top_k, policy, router, valid, selection_bias)
  with jax.named_scope("lynx_route"):
    valid = jnp.ones(logits.shape[0], bool) if valid is None else valid
    scores = score_rows(logits, top_k, policy.experts_per_token(top_k), valid, router, selection_bias)
    if not policy.batch_aware:
      return settle(scores, *unrestricted(scores, top_k, router))
    return route_within(scores, policy.keep_set(scores), top_k, router)


def _check_arguments(logits: Any, top_k: Any, policy: Any, router: Any, valid: Any, selection_bias: Any) -> None:
  """Raise a ValueError that names the first argument of `lynx_route` that cannot work."""
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
  if valid is not None and (valid.shape != (rows,) or valid.dtype != jnp.bool_):
    raise ValueError(f"valid is {valid.dtype}{list(valid.shape)}; give bool[{rows}], one flag per row of logits")
  if selection_bias is not None and (selection_bias.shape != (num_experts,) or selection_bias.dtype != jnp.float32):
    raise ValueError(
      f"selection_bias is {selection_bias.dtype}{list(selection_bias.shape)}; give float32[{num_experts}]"
    )
  if selection_bias is not None and router.scoring != "sigmoid":
    raise ValueError(f"selection_bias goes with sigmoid gates, not with router = {router}; leave it out")
