"""Batches of logits and the policies that the routing tests share, in few shapes so that traces are few."""

import collections

import jax
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lynx_jax.routing import OEA, Auto, Budget, CountVote, Lynx, MassFloor, Prune, Router, TopK, XShare, lynx_route

ROWS, EXPERTS, TOP_K = 6, 8, 3

RENORMALIZE = Router(renormalize=True)
KEEP_MASS = Router(renormalize=False)

# Routers that are more than a softmax, and their experts per token.
ROUTERS = {
  "DeepSeek-V2": (Router(renormalize=False, scale=16.0, groups=4, groups_kept=2), 3),
  "DeepSeek-V3": (Router(scoring="sigmoid", scale=2.5, groups=4, groups_kept=2, group_score="top2_sum"), 3),
  "Llama-4": (Router(scoring="sigmoid", renormalize=False), 1),
  "Phi-3.5": (Router(scoring="sparsemixer", renormalize=False), 2),
  "a dense network in parts": (Router(unit_weights=True), 3),
}
BIAS = np.array([0.0, 0.3, -0.2, 0.1, 0.05, -0.4, 0.2, 0.0], np.float32)

PER_TOKEN = (TopK(), Prune(2))
BATCH_AWARE = (
  Lynx(alpha=3, beta=2),
  Lynx(alpha=0.7, beta=1),
  Lynx(alpha=1, beta=None),
  CountVote(4),
  OEA(1),
  OEA(2),
  XShare(budget=4),
  XShare(budget=5, k0=2),
  MassFloor(0.8),
  MassFloor(1),
  Auto(),
  Auto(1.5),
  Budget(TopK(), 4),
  Budget(Lynx(alpha=3, beta=2), 4),
  Budget(Prune(2), 3),
)
POLICIES = PER_TOKEN + BATCH_AWARE


TRACES = collections.Counter()


def both_routings(logits, valid, *, policy, top_k=TOP_K):
  """The routings of a renormalising and of a mass-keeping router in plain JAX, in one trace."""
  TRACES[policy, top_k, logits.shape, logits.dtype] += 1
  return tuple(
    lynx_route(logits, top_k, policy=policy, router=router, valid=valid, implementation="reference")
    for router in (RENORMALIZE, KEEP_MASS)
  )


route_both = jax.jit(both_routings, static_argnames=("policy", "top_k"))


def routing_by(logits, valid, bias, *, policy, router, top_k):
  """The routing of any router in plain JAX; `bias` is for the router that has one."""
  bias = bias if router.scoring == "sigmoid" and router.groups > 1 else None
  given = {"policy": policy, "router": router, "valid": valid, "selection_bias": bias}
  return lynx_route(logits, top_k, implementation="reference", **given)


# Compiled without optimisation: tests by this are mostly compilation.
route_by = jax.jit(
  routing_by,
  static_argnames=("policy", "router", "top_k"),
  compiler_options={"xla_backend_optimization_level": 0},
)


def normal_logits(seed, rows, experts, *, scale=1.5, grid=None):
  """float32 logits; `grid` rounds them so coarsely that ties are common."""
  logits = np.random.default_rng(seed).normal(0, scale, (rows, experts))
  return (logits if grid is None else np.round(logits / grid) * grid).astype(np.float32)


def some_rows(seed, rows, count):
  """A mask with `count` of `rows` set."""
  mask = np.zeros(rows, bool)
  mask[np.random.default_rng(seed).permutation(rows)[:count]] = True
  return mask


# Half-precision values and hypothesis's habit of repeating them make ties common.
logit_batches = hnp.arrays(np.float32, (ROWS, EXPERTS), elements=st.floats(-6, 6, width=16))
row_masks = hnp.arrays(np.bool_, (ROWS,))


def assert_same_bits(one, other):
  """Two routings, field by field, equal to the last bit."""
  for name in one._fields:
    np.testing.assert_array_equal(np.asarray(getattr(one, name)), np.asarray(getattr(other, name)), err_msg=name)
