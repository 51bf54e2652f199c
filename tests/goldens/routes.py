"""`lynx_route` on recorded router logits: keep sets, each row's experts and weights, for every policy and router."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

import lynx_jax
from tests.goldens.stored import inputs

POLICIES = (
  "topk",
  "auto",
  "auto:share=1.5",
  "lynx:alpha=3,beta=2",
  "lynx:alpha=1,beta=1",
  "prune:k0=1",
  "count_vote:keep={half}",
  "oea:k0=1",
  "xshare:budget={half},k0=1",
  "mass_floor:tau=0.8",
  "budget:policy=(topk),max_active={half}",
  "budget:policy=(lynx:alpha=3,beta=2),max_active={half}",
)
# Each pair of a case and a policy is compiled anew: cases of another router take these alone.
FEW = ("auto", "lynx:alpha=1,beta=1", "oea:k0=1")
# Weights are rounded to this many decimals: sums differ by 1e-7 between the orders of adding that machines choose.
DECIMALS = 5


@dataclasses.dataclass(frozen=True)
class Case:
  """Logits by their name in `inputs.npz`, a model's rule, rows that are not valid, and the policies to try."""

  logits: str
  top_k: int
  router: lynx_jax.Router = lynx_jax.Router()  # noqa: RUF009 (frozen)
  bias: str | None = None
  invalid: tuple[int, ...] = ()
  policies: tuple[str, ...] = FEW


CASES = {
  "embedded, layer 1": Case("embedded_layer0", 4),
  "embedded, layer 4, invalid rows": Case("embedded_layer3", 4, invalid=(0, 3, 9, 15), policies=POLICIES),
  "embedded, layer 6": Case("embedded_layer5", 4, lynx_jax.Router(renormalize=False)),
  "one row": Case("normal_1x60", 6),
  "few rows, Mixtral's": Case("normal_5x8", 2),
  "64 experts, invalid rows": Case(
    "normal_16x64", 8, lynx_jax.Router(renormalize=False), invalid=(1, 2, 11), policies=POLICIES
  ),
  "groups, bias (DeepSeek-V3's)": Case(
    "normal_32x256",
    8,
    lynx_jax.Router("sigmoid", scale=2.5, groups=8, groups_kept=4, group_score="top2_sum"),
    bias="bias_256",
    invalid=(5, 30),
    policies=POLICIES,
  ),
  "groups (DeepSeek-V2's)": Case(
    "normal_16x64", 6, lynx_jax.Router(renormalize=False, scale=16.0, groups=8, groups_kept=3)
  ),
  "sigmoid, bias": Case(
    "normal_24x16", 2, lynx_jax.Router("sigmoid", renormalize=False), bias="bias_16", invalid=(23,)
  ),
  "sparsemixer (Phi-3.5's)": Case("normal_24x16", 2, lynx_jax.Router("sparsemixer", renormalize=False)),
  "no valid row": Case("normal_5x8", 2, invalid=(0, 1, 2, 3, 4)),
}

_route = jax.jit(lynx_jax.lynx_route, static_argnames=("top_k", "policy", "router"))


def record(name: str) -> dict[str, Any]:
  """For each policy, the active experts, and the experts and weights of each row."""
  case = CASES[name]
  logits = inputs()[case.logits].astype(np.float32)
  rows, experts = logits.shape
  valid = ~np.isin(np.arange(rows), case.invalid)
  bias = None if case.bias is None else inputs()[case.bias].astype(np.float32)
  route = functools.partial(_route, logits, case.top_k, router=case.router, valid=valid, selection_bias=bias)
  found = {}
  for text in case.policies:
    text = text.format(half=experts // 2)
    routing = route(policy=lynx_jax.parse_policy(text))
    found[text] = {
      "active": np.flatnonzero(routing.active).tolist(),
      "ids": np.asarray(routing.ids).tolist(),
      "weights": [[round(float(weight), DECIMALS) for weight in row] for row in np.asarray(routing.weights)],
    }
  return found
