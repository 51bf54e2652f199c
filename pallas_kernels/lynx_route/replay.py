"""A routing that was decided before, applied again: for training on what an engine has generated."""

import jax.numpy as jnp

from pallas_kernels.dims import ExpertIds, RouterLogits, RowMask, SelectionBias
from pallas_kernels.lynx_route.policy import TiledRouting
from pallas_kernels.lynx_route.remap import settle, substitute_weights
from pallas_kernels.lynx_route.router import Router
from pallas_kernels.lynx_route.scores import score_rows


def replay_routing(
  logits: RouterLogits,
  top_k: int,
  ids: ExpertIds,
  *,
  router: Router,
  valid: RowMask,
  selection_bias: SelectionBias | None = None,
) -> TiledRouting:
  """The routing in which each row runs the experts `ids`, with the weights that its own logits give them.

  These are the weights of `lynx_route` under a policy that chose the same experts, up to the order of floating-point
  sums. A SparseMixer router's weights also depend on experts that were kept and not chosen; here all count as kept.
  Replay of routing in reinforcement learning: arXiv 2510.11370.
  """
  scores = score_rows(logits.astype(jnp.float32), top_k, ids.shape[1], valid, router, selection_bias)
  return TiledRouting(*settle(scores, valid, ids, substitute_weights(scores, ids, router, None)))
