"""One suite for every implementation of `select_experts`, judged by `lynx_route` and by NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynx_jax.routing import OEA, Auto, Budget, Lynx, Prune, TopK, lynx_route
from lynx_jax.routing import MassFloor as MassFloorPolicy
from lynx_jax.routing import Router as ModelRouter
from pallas_kernels import expert_ffn, select_experts
from pallas_kernels.select_experts import (
  AffinityBins,
  FirstChoices,
  Limited,
  MassFloor,
  OwnExperts,
  Router,
  WorthReading,
)

IMPLEMENTATIONS = ("pallas", "cpu", "reference")
RENORMALIZE, KEEP_MASS = Router(), Router(renormalize=False)
# Rows, experts, experts a row, the rule, the policy that it is, the router. E is not always a power of
# two; 70 rows of 100 experts are more than one block.
CASES = (
  (1, 4, 2, AffinityBins(3.0, 2), Lynx(3, 2), RENORMALIZE),
  (7, 5, 2, OwnExperts(), TopK(), RENORMALIZE),
  (7, 5, 2, OwnExperts(), TopK(), KEEP_MASS),
  (7, 5, 3, OwnExperts(2), Prune(2), KEEP_MASS),
  (16, 24, 4, FirstChoices(1), OEA(1), KEEP_MASS),
  (16, 24, 4, FirstChoices(3), OEA(3), RENORMALIZE),
  (16, 24, 4, AffinityBins(3.0, 2), Lynx(3, 2), RENORMALIZE),
  (16, 24, 4, AffinityBins(0.7, 1), Lynx(0.7, 1), KEEP_MASS),
  (16, 24, 4, AffinityBins(1.0, None), Lynx(1, None), RENORMALIZE),
  (16, 24, 4, MassFloor(0.7), MassFloorPolicy(0.7), RENORMALIZE),
  (9, 8, 2, MassFloor(1.0), MassFloorPolicy(1), KEEP_MASS),
  (16, 24, 4, WorthReading(0.5), Auto(), RENORMALIZE),
  (11, 8, 2, WorthReading(1.5), Auto(1.5), KEEP_MASS),
  (16, 24, 4, Limited(OwnExperts(), 8), Budget(TopK(), 8), KEEP_MASS),
  (16, 24, 4, Limited(AffinityBins(3.0, 2), 10), Budget(Lynx(3, 2), 10), RENORMALIZE),
  (11, 8, 2, Limited(MassFloor(0.9), 5), Budget(MassFloorPolicy(0.9), 5), KEEP_MASS),
  (70, 100, 5, AffinityBins(3.0, 4), Lynx(3, 4), KEEP_MASS),
  (70, 100, 5, FirstChoices(2), OEA(2), RENORMALIZE),
  (70, 100, 5, OwnExperts(), TopK(), RENORMALIZE),
)

# Compiled without optimisation: tests by these are mostly compilation.
QUICKLY = {"xla_backend_optimization_level": 0}
choose = jax.jit(
  select_experts,
  static_argnums=(1,),
  static_argnames=("rule", "router", "implementation"),
  compiler_options=QUICKLY,
)
route = jax.jit(lynx_route, static_argnums=(1,), static_argnames=("policy", "router"), compiler_options=QUICKLY)


@st.composite
def batches(draw, rows, experts):
  """Scores with many ties, or few, or one expert that all want; and which rows count. The others hold NaN."""
  random = np.random.default_rng(draw(st.integers(0, 2**16)))
  logits = random.normal(0, draw(st.sampled_from([0.5, 2.0, 30.0])), (rows, experts))
  kind = draw(st.sampled_from(["ties", "plain", "one for all", "masked"]))
  if kind == "ties":
    logits = np.round(2 * logits) / 2
  elif kind == "one for all":
    logits[:, experts // 2] = 50.0
  elif kind == "masked":
    logits[:, :: max(2, experts // 3)] = -np.inf
  valid = random.random(rows) < draw(st.sampled_from([0.0, 0.1, 0.7, 1.0]))
  logits[~valid] = draw(st.sampled_from([np.nan, np.inf, 0.0]))
  return logits.astype(np.float32), valid


def names(rule):
  """The implementations that take a rule."""
  return tuple(name for name in IMPLEMENTATIONS if name != "pallas" or not isinstance(rule, Limited))


def names_here(rule):
  """Those of `names` that this machine runs: native code is for CPUs."""
  return tuple(name for name in names(rule) if name != "cpu" or jax.default_backend() == "cpu")


def rows_of_experts(ids, valid, experts):
  """The assignments (row * K + place) of each expert that some valid row runs, in row order."""
  slots = {e: [] for e in range(experts)}
  for row in np.flatnonzero(valid):
    for place, expert in enumerate(ids[row]):
      slots[int(expert)].append(row * ids.shape[1] + place)
  return {e: taken for e, taken in slots.items() if taken}


def check(implementation, case, logits, valid, bias=None):
  """Raises unless an implementation does what `lynx_route` does, and groups the rows by expert."""
  rows, experts, top_k, rule, policy, router = case
  bias = None if bias is None else jnp.asarray(bias)
  given = {"valid": jnp.asarray(valid), "selection_bias": bias}
  got = choose(logits, top_k, rule=rule, router=router, implementation=implementation, **given)
  model = ModelRouter(**dataclasses.asdict(router))
  want = route(jnp.asarray(logits), top_k, policy=policy, router=model, **given)
  np.testing.assert_array_equal(got.ids, want.ids)
  np.testing.assert_array_equal(got.active, want.active)
  np.testing.assert_allclose(got.weights, want.weights, rtol=1e-5, atol=1e-7)

  tiles, size = got.tiles, got.tiles.slot.shape[1]
  grouped = rows_of_experts(np.asarray(got.ids), valid, experts)
  wanted = [(expert, taken[at : at + size]) for expert, taken in grouped.items() for at in range(0, len(taken), size)]
  assert int(tiles.in_use) == len(wanted)
  for index, (expert, taken) in enumerate(wanted):
    assert int(tiles.expert[index]) == expert
    padded = taken + [rows * got.ids.shape[1]] * (size - len(taken))
    np.testing.assert_array_equal(tiles.slot[index], padded)


@pytest.mark.parametrize(
  ("implementation", "case"),
  [(name, case) for case in CASES for name in names(case[3])],
  ids=lambda case: f"{case[:3]}-{case[4]}-{case[5].renormalize}".replace(" ", "") if isinstance(case, tuple) else case,
)
@given(data=st.data())
@settings(max_examples=12)
def test_equals_lynx_route_and_groups_the_rows(implementation, case, data):
  check(implementation, case, *data.draw(batches(*case[:2])))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_its_tiles_drive_expert_ffn(implementation):
  random = np.random.default_rng(0)
  x, logits = (jnp.asarray(random.normal(size=size), jnp.float32) for size in ((6, 16), (6, 5)))
  gate_up, down = (jnp.asarray(random.normal(size=size), jnp.float32) for size in ((5, 16, 16), (5, 16, 8)))
  valid = jnp.asarray([True, True, False, True, True, False])
  chosen = select_experts(logits, 2, rule=AffinityBins(1.0, 2), valid=valid, implementation=implementation)
  args = (x, chosen.ids, chosen.weights, gate_up, down)
  y = expert_ffn(*args, valid=valid, tiles=chosen.tiles, implementation="pallas")
  np.testing.assert_allclose(y, expert_ffn(*args, valid=valid, implementation="reference"), rtol=1e-4, atol=1e-4)


def test_what_the_kernel_cannot_take_is_said():
  with pytest.raises(NotImplementedError, match="at most 256 rows and 512 experts, not 257 and 8"):
    select_experts(jnp.zeros((257, 8)), 2, implementation="pallas")
  with pytest.raises(NotImplementedError, match="a greedy rule takes at most 32 rows of 128 experts, not 64"):
    select_experts(jnp.zeros((64, 128)), 2, rule=MassFloor(0.5), implementation="pallas")
  with pytest.raises(NotImplementedError, match="it has no code for a limited set"):
    select_experts(jnp.zeros((2, 8)), 2, rule=Limited(OwnExperts(), 4), implementation="pallas")
  with pytest.raises(ValueError, match="rows that run fewer experts than the model's are not limited"):
    Limited(OwnExperts(1), 4)
  with pytest.raises(ValueError, match="top_k is 9: give a number from 1 to the experts that a row may use, 8"):
    select_experts(jnp.zeros((2, 8)), 9)
