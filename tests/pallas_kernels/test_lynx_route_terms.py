"""Own rows, weights, costs and a limit in every implementation of `lynx_route`, judged by NumPy and plain JAX."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.lynx_route import OEA, Auto, Budget, Lynx, MassFloor, Prune, Router, TopK
from tests.pallas_kernels.test_lynx_route import KEEP_MASS, RENORMALIZE, batches, check, check_by_the_oracle, choose
from tests.pallas_kernels.test_lynx_route import names_here as implementations_of

ALL = "own weight cost limit"
# Rows, experts, experts a row, the policy, the router; and the terms that are given. 70 rows of 100 experts are more
# than one block of the GPU kernel, and then it takes no limit.
CASES = (
  ((16, 24, 4, Lynx(3, 2), RENORMALIZE), ALL),
  ((16, 24, 4, Lynx(1, None), KEEP_MASS), "own weight"),
  ((16, 24, 4, OEA(1), KEEP_MASS), ALL),
  ((16, 24, 4, MassFloor(0.7), KEEP_MASS), ALL),
  ((16, 24, 4, MassFloor(0.7), RENORMALIZE), "cost"),
  ((16, 24, 4, Auto(), RENORMALIZE), ALL),
  ((16, 24, 4, TopK(), RENORMALIZE), ALL),
  ((16, 24, 4, Prune(2), KEEP_MASS), "cost limit"),
  ((16, 24, 4, Budget(Lynx(3, 2), 10), RENORMALIZE), "own cost"),
  ((70, 100, 5, Lynx(3, 4), KEEP_MASS), "own weight cost"),
)


def drawn(random, rows, experts, names):
  """Terms by name: weights and costs that are exact in fixed point, and a limit that may be less than a row runs."""
  terms = {
    "own": random.random(rows) < random.choice([0.1, 0.5]),
    "weight": random.choice([0.0, 0.25, 1.0, 4.0], rows).astype(np.float32),
    "cost": random.choice([0.125, 0.5, 1.0], experts).astype(np.float32),
    "limit": np.float32(random.integers(0, 2 * experts) / 2),
  }
  return {name: terms[name] for name in names.split()}


every_case = pytest.mark.parametrize(
  ("implementation", "case", "names"),
  [(name, case, names) for case, names in CASES for name in implementations_of(case[3], names)],
  ids=lambda value: f"{value[:3]}-{value[3]}".replace(" ", "") if isinstance(value, tuple) else value,
)


@every_case
@given(data=st.data())
@settings(max_examples=12)
def test_equals_plain_jax_and_groups_the_rows(implementation, case, names, data):
  rows, experts = case[:2]
  logits, valid = data.draw(batches(rows, experts))
  random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
  check(implementation, case, logits, valid, **drawn(random, rows, experts, names))


# The others equal plain JAX, as the test above has it.
@pytest.mark.parametrize(
  ("implementation", "case", "names"),
  [
    pytest.param(name, case, names, marks=() if name == "reference" else pytest.mark.slow)
    for case, names in CASES
    for name in implementations_of(case[3], names)
  ],
  ids=lambda value: f"{value[:3]}-{value[3]}".replace(" ", "") if isinstance(value, tuple) else value,
)
def test_equals_the_slow_statement(implementation, case, names):
  rows, experts = case[:2]
  for seed in range(5):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (rows, experts)).astype(np.float32) + np.linspace(1, -1, experts, dtype=np.float32)
    valid = random.random(rows) < (1, 1, 0.9, 0.7, 0.2)[seed]
    check_by_the_oracle(implementation, case, logits, valid, **drawn(random, rows, experts, names))


def routed(implementation, logits, policy, *, router=RENORMALIZE, **terms):
  """The routing with 4 experts a row."""
  given = {name: jnp.asarray(term) for name, term in terms.items()}
  return choose(jnp.asarray(logits), 4, policy=policy, router=router, implementation=implementation, **given).routing


def assert_same_bits(one, other):
  """Raises unless two routings are equal in ids, weights and active experts."""
  for left, right in zip(one, other, strict=True):
    np.testing.assert_array_equal(left, right)


by_implementation = pytest.mark.parametrize(
  ("implementation", "policy"),
  [
    (name, policy)
    for policy in (Lynx(3, 2), Auto(), TopK(), Budget(TopK(), 8))
    for name in implementations_of(policy, ALL)
  ],
  ids=repr,
)


@by_implementation
def test_terms_that_are_all_alike_change_no_bit(implementation, policy):
  logits = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
  alike = {"own": np.zeros(16, bool), "weight": np.full(16, 0.3, np.float32), "cost": np.full(24, 0.02, np.float32)}
  alike["limit"] = np.float32(24)
  assert_same_bits(routed(implementation, logits, policy), routed(implementation, logits, policy, **alike))


@pytest.mark.parametrize("router", [RENORMALIZE, KEEP_MASS], ids=["renormalized", "of all"])
@pytest.mark.parametrize("implementation", implementations_of(Lynx(3, 2)))
def test_own_rows_run_the_models_own_bit_for_bit(implementation, router):
  logits = np.random.default_rng(1).normal(size=(16, 24)).astype(np.float32)
  models = routed(implementation, logits, TopK(), router=router)
  for own in (np.ones(16, bool), np.arange(16) % 3 == 0):
    chosen = routed(implementation, logits, Lynx(3, 2), router=router, own=own)
    np.testing.assert_array_equal(np.asarray(chosen.ids)[own], np.asarray(models.ids)[own])
    np.testing.assert_array_equal(np.asarray(chosen.weights)[own], np.asarray(models.weights)[own])
    np.testing.assert_array_equal(np.asarray(chosen.active)[np.asarray(models.ids)[own].ravel()], True)


@pytest.mark.parametrize("implementation", implementations_of(Lynx(3, 2)))
def test_where_own_rows_read_every_expert_the_others_run_their_own(implementation):
  logits = np.random.default_rng(2).normal(size=(16, 24)).astype(np.float32)
  own = np.arange(16) < 6
  logits[np.arange(24) // 4, np.arange(24)] += 9.0
  chosen = routed(implementation, logits, Lynx(3, 2), own=own)
  assert chosen.active.all()
  np.testing.assert_array_equal(chosen.ids, routed(implementation, logits, TopK(), own=own).ids)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32])
@pytest.mark.parametrize("implementation", implementations_of(TopK()))
def test_a_limit_is_data_of_either_dtype_and_one_row_has_its_experts(implementation, dtype):
  logits = np.random.default_rng(3).normal(size=(16, 24)).astype(np.float32)
  for limit in (-3, 0, 3, 4, 9, 100):
    active = int(routed(implementation, logits, TopK(), limit=np.asarray(limit, dtype)).active.sum())
    assert active == (24 if limit == 100 else max(limit, 4))


# Rows, experts, experts a row, the policy, the router, whether it has a selection bias.
ROUTERS = {
  "Llama-4": (16, 16, 1, Lynx(3, 2), Router("sigmoid", renormalize=False), False),
  "DeepSeek-V3": (
    16, 32, 4, Lynx(3, 2), Router("sigmoid", scale=2.5, groups=8, groups_kept=4, group_score="top2_sum"), True,
  ),
  "softmax in groups": (
    16, 40, 4, OEA(1), Router(renormalize=False, scale=16.0, groups=8, groups_kept=2, group_score="top2_sum"), False,
  ),
  "Phi-3.5": (16, 16, 2, Lynx(3, 2), Router("sparsemixer", renormalize=False), False),
}  # fmt: skip


@pytest.mark.parametrize(
  ("implementation", "name"), [(each, name) for name, case in ROUTERS.items() for each in implementations_of(case[3])]
)
@given(data=st.data())
@settings(max_examples=8)
def test_own_rows_under_any_router(implementation, name, data):
  *case, biased = ROUTERS[name]
  rows, experts = case[:2]
  logits, valid = data.draw(batches(rows, experts))
  own = np.random.default_rng(data.draw(st.integers(0, 2**16))).random(rows) < 0.4
  bias = np.linspace(-0.3, 0.3, experts, dtype=np.float32).round(2) if biased else None
  check(implementation, case, logits, valid, bias, own=own)
