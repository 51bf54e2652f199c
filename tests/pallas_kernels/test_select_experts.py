"""One suite for every implementation of `select_experts`, judged by `lynx_route` and by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynx_jax.routing import OEA, Auto, Lynx, Prune, Router, TopK, lynx_route
from lynx_jax.routing import MassFloor as MassFloorPolicy
from pallas_kernels import expert_ffn, select_experts
from pallas_kernels.select_experts import AffinityBins, FirstChoices, MassFloor, OwnExperts, WorthReading

IMPLEMENTATIONS = ("pallas", "reference")
# Rows, experts, experts a row, the rule, the policy that it is, whether weights sum to 1. E is not always a power of
# two; 70 rows of 100 experts are more than one block.
CASES = (
  (1, 4, 2, AffinityBins(3.0, 2), Lynx(3, 2), True),
  (7, 5, 2, OwnExperts(), TopK(), True),
  (7, 5, 2, OwnExperts(), TopK(), False),
  (7, 5, 3, OwnExperts(2), Prune(2), False),
  (16, 24, 4, FirstChoices(1), OEA(1), False),
  (16, 24, 4, FirstChoices(3), OEA(3), True),
  (16, 24, 4, AffinityBins(3.0, 2), Lynx(3, 2), True),
  (16, 24, 4, AffinityBins(0.7, 1), Lynx(0.7, 1), False),
  (16, 24, 4, AffinityBins(1.0, None), Lynx(1, None), True),
  (16, 24, 4, MassFloor(0.7), MassFloorPolicy(0.7), True),
  (9, 8, 2, MassFloor(1.0), MassFloorPolicy(1), False),
  (16, 24, 4, WorthReading(0.5), Auto(), True),
  (11, 8, 2, WorthReading(1.5), Auto(1.5), False),
  (70, 100, 5, AffinityBins(3.0, 4), Lynx(3, 4), False),
  (70, 100, 5, FirstChoices(2), OEA(2), True),
  (70, 100, 5, OwnExperts(), TopK(), True),
)

choose = jax.jit(select_experts, static_argnums=(1,), static_argnames=("rule", "renormalize", "implementation"))
route = jax.jit(lynx_route, static_argnums=(1,), static_argnames=("policy", "router"))


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


def rows_of_experts(ids, valid, experts):
  """The assignments (row * K + place) of each expert that some valid row runs, in row order."""
  slots = {e: [] for e in range(experts)}
  for row in np.flatnonzero(valid):
    for place, expert in enumerate(ids[row]):
      slots[int(expert)].append(row * ids.shape[1] + place)
  return {e: taken for e, taken in slots.items() if taken}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[:3]}-{case[4]}-{case[5]}".replace(" ", ""))
@given(data=st.data())
@settings(max_examples=12)
def test_equals_lynx_route_and_groups_the_rows(implementation, case, data):
  rows, experts, top_k, rule, policy, renormalize = case
  logits, valid = data.draw(batches(rows, experts))
  got = choose(logits, top_k, rule=rule, renormalize=renormalize, valid=valid, implementation=implementation)
  want = route(
    jnp.asarray(logits), top_k, policy=policy, router=Router(renormalize=renormalize), valid=jnp.asarray(valid)
  )
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
  with pytest.raises(ValueError, match="top_k is 9: give a number from 1 to the experts, 8"):
    select_experts(jnp.zeros((2, 8)), 9)
