"""One suite for every implementation of `lynx_route`, judged by NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import expert_ffn, lynx_route
from pallas_kernels.lynx_route import (
  OEA,
  Auto,
  Budget,
  CountVote,
  Lynx,
  MassFloor,
  Prune,
  Router,
  TopK,
  XShare,
  lynx_route_tiles,
)
from tests.routing import oracle

IMPLEMENTATIONS = ("pallas", "cpu", "reference")
RENORMALIZE, KEEP_MASS = Router(), Router(renormalize=False)
# Rows, experts, experts a row, the policy, the router. E is not always a power of two; 70 rows of 100 experts are more
# than one block.
CASES = (
  (1, 4, 2, Lynx(3, 2), RENORMALIZE),
  (7, 5, 2, TopK(), RENORMALIZE),
  (7, 5, 2, TopK(), KEEP_MASS),
  (7, 5, 3, Prune(2), KEEP_MASS),
  (16, 24, 4, OEA(1), KEEP_MASS),
  (16, 24, 4, OEA(3), RENORMALIZE),
  (16, 24, 4, Lynx(3, 2), RENORMALIZE),
  (16, 24, 4, Lynx(0.7, 1), KEEP_MASS),
  (16, 24, 4, Lynx(1, None), RENORMALIZE),
  (16, 24, 4, MassFloor(0.7), RENORMALIZE),
  (9, 8, 2, MassFloor(1), KEEP_MASS),
  (16, 24, 4, Auto(), RENORMALIZE),
  (11, 8, 2, Auto(1.5), KEEP_MASS),
  (16, 24, 4, Budget(TopK(), 8), KEEP_MASS),
  (16, 24, 4, Budget(Lynx(3, 2), 10), RENORMALIZE),
  (11, 8, 2, Budget(MassFloor(0.9), 5), KEEP_MASS),
  (11, 8, 2, CountVote(4), KEEP_MASS),
  (11, 8, 2, XShare(4), RENORMALIZE),
  (70, 100, 5, Lynx(3, 4), KEEP_MASS),
  (70, 100, 5, OEA(2), RENORMALIZE),
  (70, 100, 5, TopK(), RENORMALIZE),
)

# Compiled without optimisation: tests by these are mostly compilation.
QUICKLY = {"xla_backend_optimization_level": 0}
choose = jax.jit(
  lynx_route_tiles,
  static_argnums=(1,),
  static_argnames=("policy", "router", "implementation"),
  compiler_options=QUICKLY,
)


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


def names(policy, terms=""):
  """The implementations that have code for a policy on these terms."""
  pallas = (TopK, Prune, OEA, Lynx, MassFloor, Auto)
  cpu = tuple(kind for kind in (*pallas, Budget) if not (kind is Prune and "limit" in terms))
  taken = {"pallas": pallas, "cpu": cpu}
  return tuple(name for name in IMPLEMENTATIONS if name == "reference" or isinstance(policy, taken[name]))


def names_here(policy, terms=""):
  """Those of `names` that this machine runs: native code is for CPUs."""
  return tuple(name for name in names(policy, terms) if name != "cpu" or jax.default_backend() == "cpu")


def rows_of_experts(ids, valid, experts):
  """The assignments (row * K + place) of each expert that some valid row runs, in row order."""
  slots = {e: [] for e in range(experts)}
  for row in np.flatnonzero(valid):
    for place, expert in enumerate(ids[row]):
      slots[int(expert)].append(row * ids.shape[1] + place)
  return {e: taken for e, taken in slots.items() if taken}


def check(implementation, case, logits, valid, bias=None, **terms):
  """Raises unless an implementation does what plain JAX does, and groups the rows by expert."""
  rows, experts, top_k, policy, router = case
  given = {"policy": policy, "router": router, "valid": jnp.asarray(valid)}
  given |= {name: jnp.asarray(term) for name, term in terms.items()}
  given["selection_bias"] = None if bias is None else jnp.asarray(bias)
  got = choose(jnp.asarray(logits), top_k, implementation=implementation, **given)
  if implementation != "reference":
    want = choose(jnp.asarray(logits), top_k, implementation="reference", **given)
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


def check_by_the_oracle(implementation, case, logits, valid, bias=None, **terms):
  """Raises unless an implementation follows the slow statement of the rules."""
  _, _, top_k, policy, router = case
  given = {"policy": policy, "router": router, "valid": jnp.asarray(valid)}
  given |= {name: jnp.asarray(term) for name, term in terms.items()}
  given["selection_bias"] = None if bias is None else jnp.asarray(bias)
  got = choose(jnp.asarray(logits), top_k, implementation=implementation, **given)
  ids, weights, active = oracle.route_by(logits, top_k, policy, router, bias, valid, **terms)
  np.testing.assert_array_equal(got.ids, ids)
  np.testing.assert_array_equal(got.active, active)
  np.testing.assert_allclose(got.weights, weights, rtol=2e-5, atol=1e-7)


every_case = pytest.mark.parametrize(
  ("implementation", "case"),
  [(name, case) for case in CASES for name in names(case[3])],
  ids=lambda case: f"{case[:3]}-{case[3]}-{case[4].renormalize}".replace(" ", "") if isinstance(case, tuple) else case,
)


@every_case
@given(data=st.data())
@settings(max_examples=12)
def test_equals_plain_jax_and_groups_the_rows(implementation, case, data):
  check(implementation, case, *data.draw(batches(*case[:2])))


@every_case
def test_equals_the_slow_statement(implementation, case):
  rows, experts = case[:2]
  for seed in range(4):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (rows, experts)).astype(np.float32)
    check_by_the_oracle(implementation, case, logits, random.random(rows) < (1, 1, 0.7, 0.2)[seed])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_its_tiles_drive_expert_ffn(implementation):
  random = np.random.default_rng(0)
  x, logits = (jnp.asarray(random.normal(size=size), jnp.float32) for size in ((6, 16), (6, 5)))
  gate_up, down = (jnp.asarray(random.normal(size=size), jnp.float32) for size in ((5, 16, 16), (5, 16, 8)))
  valid = jnp.asarray([True, True, False, True, True, False])
  chosen = lynx_route_tiles(logits, 2, policy=Lynx(1, 2), valid=valid, implementation=implementation)
  args = (x, chosen.ids, chosen.weights, gate_up, down)
  y = expert_ffn(*args, valid=valid, tiles=chosen.tiles, implementation="pallas")
  np.testing.assert_allclose(y, expert_ffn(*args, valid=valid, implementation="reference"), rtol=1e-4, atol=1e-4)


def test_what_an_implementation_cannot_take_is_said():
  with pytest.raises(NotImplementedError, match="at most 256 rows and 512 experts, not 257 and 8"):
    lynx_route(jnp.zeros((257, 8)), 2, implementation="pallas")
  with pytest.raises(NotImplementedError, match="a greedy policy takes at most 32 rows of 128 experts, not 64"):
    lynx_route(jnp.zeros((64, 128)), 2, policy=MassFloor(0.5), implementation="pallas")
  with pytest.raises(NotImplementedError, match=r"it has no code for the policy Budget\(policy=TopK\(\), max_active=4"):
    lynx_route(jnp.zeros((2, 8)), 2, policy=Budget(TopK(), 4), implementation="pallas")
  with pytest.raises(NotImplementedError, match="a limit takes at most 32 rows of 128 experts, not 64"):
    lynx_route(jnp.zeros((64, 128)), 2, limit=jnp.int32(9), implementation="pallas")
  with pytest.raises(NotImplementedError, match=r"it has no code for a limit around Prune\(k0=1\)"):
    lynx_route(jnp.zeros((2, 8)), 2, policy=Prune(1), limit=jnp.int32(2), implementation="cpu")
  with pytest.raises(ValueError, match="lynx_route has no implementation 'cuda': choose one of 'pallas', 'cpu'"):
    lynx_route(jnp.zeros((2, 8)), 2, implementation="cuda")


@dataclasses.dataclass(frozen=True)
class SecondBest(Lynx):
  """A user's own keep set under the knobs of a policy that kernels know."""

  def keep_set(self, scores):
    return jnp.arange(scores.num_experts) < 3


@pytest.mark.parametrize("policy", [SecondBest(3, 2), Budget(SecondBest(3, 2), 6), Budget(Prune(1), 3)], ids=repr)
def test_a_subclass_runs_its_own_keep_set(policy):
  for name in ("pallas", "cpu"):
    with pytest.raises(NotImplementedError, match="it has no code for the policy"):
      lynx_route(jnp.zeros((2, 8)), 2, policy=policy, implementation=name)
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8)), jnp.float32)
  got = lynx_route(logits, 2, policy=policy)
  want = lynx_route(logits, 2, policy=policy, implementation="reference")
  np.testing.assert_array_equal(got.ids, want.ids)
  if not isinstance(policy, Budget):
    assert np.flatnonzero(got.active).tolist() == [0, 1, 2]
