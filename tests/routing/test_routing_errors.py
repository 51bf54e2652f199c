"""Errors of knobs at construction and of arguments at the call: field, value, remedy."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import lynx_jax
from lynx_jax.routing import (
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
  as_policy,
  lynx_route,
  parse_policy,
)
from tests.routing.routing_cases import assert_same_bits, normal_logits
from tests.small_models import small_params

pytestmark = pytest.mark.usefixtures("own_errors")

NAN = float("nan")


@dataclasses.dataclass
class Thawed(lynx_jax.RoutingPolicy):
  """A user's policy that somebody forgot to freeze."""

  def keep_set(self, scores):
    return jnp.ones(scores.num_experts, bool)


@pytest.mark.parametrize("value", [0, -1, NAN, float("inf"), 1e7, True, "3", None])
def test_alpha(value):
  with pytest.raises(ValueError, match=r"Lynx.alpha is .*: expected a number above 0 and at most 1e\+06; published"):
    Lynx(alpha=value, beta=2)


@pytest.mark.parametrize("value", [0, -1, 1.5, NAN, True, "3", 10**20])
def test_beta(value):
  with pytest.raises(ValueError, match=r"Lynx.beta is .*: expected a whole number from 1 to .*None is no lowest"):
    Lynx(alpha=3, beta=value)


@pytest.mark.parametrize("value", [0, -0.5, 1.01, NAN, True, "0.9", None])
def test_tau(value):
  with pytest.raises(
    ValueError, match=r"MassFloor.tau is .*: expected a number above 0 and at most 1; it is the share"
  ):
    MassFloor(value)


@pytest.mark.parametrize("value", [0, -0.5, 101, NAN, True, "0.5", None])
def test_share(value):
  with pytest.raises(ValueError, match=r"Auto.share is .*: expected a number above 0 and at most 100; 0.5 is what"):
    Auto(value)


SIZES = {
  "Prune.k0": Prune,
  "OEA.k0": OEA,
  "CountVote.keep": CountVote,
  "XShare.budget": XShare,
  "XShare.k0": lambda value: XShare(8, k0=value),
  "Budget.max_active": lambda value: Budget(TopK(), value),
}


@pytest.mark.parametrize("value", [0, -1, 2.5, NAN, True, "3", None, 99999999999999999999])
@pytest.mark.parametrize("field", SIZES)
def test_sizes(field, value):
  with pytest.raises(ValueError, match=rf"{field} is .*: expected a whole number from 1 to 2147483647; \w+"):
    SIZES[field](value)


@pytest.mark.parametrize("two", [2.0, np.int64(2), np.float32(2)])
def test_whole_numbers_may_be_floats_and_numpys(two):
  for make in (*SIZES.values(), lambda value: Lynx(3, value)):
    policy = make(two)
    assert policy == make(2)
    assert hash(policy) == hash(make(2))
  assert parse_policy("lynx:alpha=3,beta=2.0") == Lynx(alpha=3, beta=2)


@pytest.mark.parametrize("value", ["lynx:alpha=3,beta=2", None, TopK])
def test_inner_policy(value):
  with pytest.raises(ValueError, match=r"Budget.policy is .*: expected a policy; give one such as TopK"):
    Budget(value, 4)


def test_router():
  with pytest.raises(ValueError, match=r"Router.scoring is 'tanh': expected one of softmax, sigmoid, sparsemixer"):
    Router(scoring="tanh")
  with pytest.raises(ValueError, match=r"Router.renormalize is 1: expected True or False"):
    Router(renormalize=1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
  ("policy", "message"),
  [
    (CountVote(3), "CountVote.keep is 3: expected from 4, the experts that every token runs, to 32, all experts"),
    (XShare(3), "XShare.budget is 3: expected from 4"),
    (Budget(TopK(), 3), "Budget.max_active is 3: expected from 4"),
    (Budget(Prune(2), 1), "Budget.max_active is 1: expected from 2"),
    (CountVote(33), "CountVote.keep is 33: expected from 4, .* to 32, all experts of a layer"),
    (XShare(999), "XShare.budget is 999: expected from 4"),
    (Budget(TopK(), 33), "Budget.max_active is 33: expected from 4"),
    (OEA(9), "OEA.k0 is 9: expected at most top_k = 4, the experts that a token runs; more would do nothing"),
    (XShare(8, k0=9), "XShare.k0 is 9: expected at most top_k = 4"),
    (Prune(5), "Prune.k0 is 5: expected at most top_k = 4"),
    (Budget(OEA(5), 8), "OEA.k0 is 5: expected at most top_k = 4"),
  ],
  ids=repr,
)
def test_knobs_that_cannot_work_or_do_nothing(policy, message):
  with pytest.raises(ValueError, match=message):
    lynx_route(jnp.zeros((2, 32)), 4, policy=policy)


def test_knobs_are_checked_before_a_model_runs():
  with pytest.raises(ValueError, match=r"OEA.k0 is 9: expected at most top_k = 2, the experts that a token runs"):
    lynx_jax.generate(small_params(), [[1, 2]], policy=OEA(9), max_new_tokens=1)


@pytest.mark.parametrize(
  ("logits", "top_k", "keywords", "message"),
  [
    (jnp.zeros(8), 2, {}, r"logits is float32\[8\]: expected floating router logits of shape \[rows, experts\]"),
    (jnp.zeros((1, 2, 8)), 2, {}, r"logits is float32\[1, 2, 8\]"),
    (jnp.zeros((2, 8), jnp.int32), 2, {}, r"logits is int32\[2, 8\]"),
    ([[0.0] * 8], 2, {}, r"logits is \[\[.*: expected an array of shape \[rows, experts\]"),
    (jnp.zeros((2, 8)), 0, {}, r"top_k is 0: expected an int from 1 to the number of experts, 8"),
    (jnp.zeros((2, 8)), 9, {}, r"top_k is 9:"),
    (jnp.zeros((2, 8)), True, {}, r"top_k is True:"),
    (jnp.zeros((2, 8)), 2.0, {}, r"top_k is 2.0:"),
    (jnp.zeros((2, 8)), 2, {"policy": "lnyx:alpha=3,beta=2"}, r"unknown policy 'lnyx'.*did you mean 'lynx'"),
    (jnp.zeros((2, 8)), 2, {"policy": 3}, r"policy is 3: expected a policy, its text, or None; such as Auto\(\)"),
    (jnp.zeros((2, 8)), 2, {"policy": Auto}, r"policy is the class Auto: expected an instance; .* Auto\(\.\.\.\)"),
    (jnp.zeros((2, 8)), 2, {"policy": Thawed()}, r"policy is .*: expected a frozen dataclass, because jit"),
    (jnp.zeros((2, 8)), 2, {"router": "softmax"}, r"router is 'softmax': expected a Router"),
    (jnp.zeros((2, 8)), 2, {"valid": jnp.ones(3, bool)}, r"valid is bool\[3\]: expected bool\[2\]"),
    (jnp.zeros((2, 8)), 2, {"valid": jnp.ones(2)}, r"valid is float32\[2\]: expected bool\[2\]"),
    (jnp.zeros((2, 8)), 2, {"selection_bias": jnp.zeros(8)}, r"selection_bias is float32\[8\]: expected None with"),
  ],
)
def test_arguments(logits, top_k, keywords, message):
  with pytest.raises(ValueError, match=message):
    lynx_route(logits, top_k, **keywords)


def test_a_policy_may_be_text():
  logits = jnp.asarray(normal_logits(0, 6, 8))
  assert_same_bits(lynx_route(logits, 2, policy="oea:k0=1"), lynx_route(logits, 2, policy=OEA(1)))
  assert as_policy(None) == TopK()
  assert as_policy("oea:k0=1") == as_policy(OEA(1)) == OEA(1)
