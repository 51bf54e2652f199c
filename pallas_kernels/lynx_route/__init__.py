"""Routing: which experts the rows of a decode batch run, by the model's router and a policy, and with what weights."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from pallas_kernels.cpu import unavailable
from pallas_kernels.dims import RouterLogits, RowMask, SelectionBias
from pallas_kernels.dispatch import CPU, GPU, Choice, Implementation, Op, hashable
from pallas_kernels.expert_ffn.blocks import DECODE_TILE, tile_rows_for
from pallas_kernels.gpu import triton_backend
from pallas_kernels.lynx_route.arguments import RouteArrays, check_arguments
from pallas_kernels.lynx_route.auto import Auto
from pallas_kernels.lynx_route.cpu import cpu_objection, lynx_route_cpu
from pallas_kernels.lynx_route.lynx import Lynx
from pallas_kernels.lynx_route.mass_floor import Budget, MassFloor
from pallas_kernels.lynx_route.policy import POLICIES, Routing, RoutingPolicy, TiledRouting, named_policy
from pallas_kernels.lynx_route.policy_text import as_policy, format_policy, parse_policy
from pallas_kernels.lynx_route.remap import lynx_route_reference
from pallas_kernels.lynx_route.rivals import OEA, CountVote, Prune, XShare
from pallas_kernels.lynx_route.router import Router
from pallas_kernels.lynx_route.scores import Scores, score_rows
from pallas_kernels.lynx_route.topk import TopK
from pallas_kernels.lynx_route.triton import lynx_route_triton, objection

__all__ = [
  "LYNX_ROUTE",
  "OEA",
  "POLICIES",
  "Auto",
  "Budget",
  "CountVote",
  "Lynx",
  "MassFloor",
  "Prune",
  "Router",
  "Routing",
  "RoutingPolicy",
  "Scores",
  "TiledRouting",
  "TopK",
  "XShare",
  "as_policy",
  "format_policy",
  "lynx_route",
  "lynx_route_tiles",
  "named_policy",
  "parse_policy",
  "score_rows",
]

LYNX_ROUTE = Op(
  "lynx_route",
  (
    Implementation(
      "pallas",
      lynx_route_triton,
      "the whole of routing in one kernel",
      (GPU,),
      objection,
      unavailable=triton_backend.unavailable,
    ),
    Implementation(
      "cpu",
      lynx_route_cpu,
      "the whole of routing in one native call",
      (CPU,),
      cpu_objection,
      unavailable=unavailable,
      bound=True,
    ),
    Implementation("reference", lynx_route_reference, "any policy, in plain JAX"),
  ),
)

_RENORMALIZING_SOFTMAX = Router()


def lynx_route(
  logits: RouterLogits,
  top_k: int,
  *,
  policy: RoutingPolicy | str | None = None,
  router: Router = _RENORMALIZING_SOFTMAX,
  valid: RowMask | None = None,
  selection_bias: SelectionBias | None = None,
  own: RowMask | None = None,
  weight: Float32[Array, "T"] | None = None,
  cost: Float32[Array, "E"] | None = None,
  limit: Int32[Array, ""] | Float32[Array, ""] | None = None,
  implementation: Choice = None,
) -> Routing:
  """Choose each row's experts under `policy`, with the weights that `router` would give them.

  Pure and jittable with `top_k`, `policy`, `router` and `implementation` static; how many rows are valid is data.
  Everything is computed in float32. Under a batch-aware policy a row's experts depend on its batch mates, so apply
  one at decode, where it saves weight reads, and not at prefill.

  On a GPU, `TopK`, `Prune`, `OEA`, `Lynx`, `MassFloor` and `Auto` run in one kernel launch. On a CPU these policies and
  a `Budget` around one of them, except around `Prune`, run in one native call. Everything else, and batches with many
  rows an expert, run in plain JAX. Implementations agree on the rules. Their gates and weights may differ in the last
  bits, and so may a choice that ties but for them: that of experts by biased gates, of groups by gates, or the greedy
  set of a `MassFloor`, a `Budget` or an `Auto`, or around a limit.

  Args:
    logits: router logits [T, E] of any float dtype; valid rows hold no NaN.
    top_k: experts per token of the model's own rule.
    policy: which experts the batch may use, as a policy or as its text; None is `TopK()`, the model's own routing.
    router: the model's own rule.
    valid: bool [T], False for padding and finished rows, which influence nothing; None: every row counts.
    selection_bias: float32 [E], added to the gates of a sigmoid router where it chooses experts, not where it weighs
      them (`e_score_correction_bias` of DeepSeek-V3).
    own: bool [T], rows that run their own `top_k` experts with the model's own weights, whatever the others choose (a
      prefill row in a decode batch). They have no say. The experts that they run are read anyway, so they join the keep
      set at no cost to the others. If the set, with them, costs no less than the own experts of all rows, every row
      runs its own. Not with `Prune`, under which rows run fewer experts.
    weight: float32 [T], a row's say in votes, summed worths and gains, relative to the largest weight of a row that is
      not in `own`, in steps of 1/256 of it. A row of weight 0 has no say: the keep set is what it would be without the
      row, which is then served from it. Where no row has weight, all have the same. None: all have the same.
    cost: float32 [E], what reading an expert costs, relative to the dearest expert. Guards compare costs, greedy
      policies and fills order experts by gain per cost, `Auto`'s price is per cost, and sizes of sets (`Budget`,
      `XShare`, `CountVote`) count in units of the dearest expert. Lynx's and OEA's own choice ignores it. None: all
      cost the same.
    limit: the most experts that the batch may read, as `Budget` around any policy but as data, an int32 or float32
      scalar; with `cost`, in units of the dearest expert. Experts of `own` rows count and are read in any case, and one
      row always has the experts that it runs. None: no limit.
    implementation: "pallas", "cpu", "reference", a list of these, or None for the best on the platform.

  Returns:
    `Routing`: ids [T, K] and weights [T, K] with K = `policy.experts_per_token(top_k)`, and active [E].

  Raises:
    ValueError: an argument of the wrong shape, dtype or type, a knob or groups that do not fit `top_k` and the number
      of experts, or an unknown implementation.
    NotImplementedError: the named implementation cannot take these arguments.
  """
  arrays = RouteArrays(logits, valid, selection_bias, own, weight, cost, limit)  # pyright: ignore[reportArgumentType]
  return _checked(arrays, top_k, policy, router, implementation, tiles=False).routing


def lynx_route_tiles(
  logits: RouterLogits,
  top_k: int,
  *,
  policy: RoutingPolicy | str | None = None,
  router: Router = _RENORMALIZING_SOFTMAX,
  valid: RowMask | None = None,
  selection_bias: SelectionBias | None = None,
  own: RowMask | None = None,
  weight: Float32[Array, "T"] | None = None,
  cost: Float32[Array, "E"] | None = None,
  limit: Int32[Array, ""] | Float32[Array, ""] | None = None,
  implementation: Choice = None,
) -> TiledRouting:
  """`lynx_route`, with the rows grouped by expert for `expert_ffn`; arguments and errors are the same.

  Batches with so many rows an expert that `expert_ffn` would use larger tiles are not grouped.
  """
  arrays = RouteArrays(logits, valid, selection_bias, own, weight, cost, limit)  # pyright: ignore[reportArgumentType]
  return _checked(arrays, top_k, policy, router, implementation, tiles=True)


def _checked(
  arrays: RouteArrays,
  top_k: int,
  policy: RoutingPolicy | str | None,
  router: Router,
  implementation: Choice,
  *,
  tiles: bool,
) -> TiledRouting:
  """Checks the arguments, and leaves batches with many rows an expert to plain JAX."""
  policy = as_policy(policy)
  check_arguments(arrays, top_k, policy, router)
  rows, experts = arrays.logits.shape
  few_rows_an_expert = tile_rows_for(rows, top_k, experts) == DECODE_TILE
  if implementation is None and not few_rows_an_expert:
    implementation = "reference"
  return _route(
    arrays._replace(valid=jnp.ones(rows, bool) if arrays.valid is None else arrays.valid),
    top_k=top_k,
    policy=policy,
    router=router,
    tiles=tiles and few_rows_an_expert,
    implementation=hashable(implementation),
  )


@functools.partial(jax.jit, static_argnames=("top_k", "policy", "router", "tiles", "implementation"))
def _route(
  arrays: RouteArrays, *, top_k: int, policy: RoutingPolicy, router: Router, tiles: bool, implementation: Choice
) -> TiledRouting:
  """Runs the op. The layers of a model call it with equal shapes and settings; jit keeps the trace of the first."""
  with jax.named_scope("lynx_route"):
    return LYNX_ROUTE(implementation, arrays, top_k=top_k, policy=policy, router=router, tiles=tiles)
