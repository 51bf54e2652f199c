"""Errors of knobs at construction and of arguments at the call: field, value, remedy."""

import jax.numpy as jnp
import pytest

from lynx_jax.routing import OEA, Auto, Budget, CountVote, Lynx, MassFloor, Prune, Router, TopK, XShare, lynx_route

pytestmark = pytest.mark.usefixtures("own_errors")

NAN = float("nan")


@pytest.mark.parametrize("value", [0, -1, NAN, float("inf"), 1e7, True, "3", None])
def test_alpha(value):
  with pytest.raises(ValueError, match=r"Lynx.alpha = .* is not a number above 0 and at most 1e\+06; published"):
    Lynx(alpha=value, beta=2)


@pytest.mark.parametrize("value", [0, -1, 1.0, NAN, True, "3"])
def test_beta(value):
  with pytest.raises(ValueError, match=r"Lynx.beta = .* is not a whole number of at least 1; .*None is no lowest"):
    Lynx(alpha=3, beta=value)


@pytest.mark.parametrize("value", [0, -0.5, 1.01, NAN, True, "0.9", None])
def test_tau(value):
  with pytest.raises(ValueError, match=r"MassFloor.tau = .* is not a number above 0 and at most 1; give the share"):
    MassFloor(value)


@pytest.mark.parametrize("value", [0, -0.5, 101, NAN, True, "0.5", None])
def test_share(value):
  with pytest.raises(ValueError, match=r"Auto.share = .* is not a number above 0 and at most 100; 0.5 is what"):
    Auto(value)


@pytest.mark.parametrize("value", [0, -1, 2.0, NAN, True, "3", None])
@pytest.mark.parametrize(
  ("make", "field"),
  [
    (Prune, "Prune.k0"),
    (OEA, "OEA.k0"),
    (CountVote, "CountVote.keep"),
    (XShare, "XShare.budget"),
    (lambda value: XShare(8, k0=value), "XShare.k0"),
    (lambda value: Budget(TopK(), value), "Budget.max_active"),
  ],
)
def test_sizes(make, field, value):
  with pytest.raises(ValueError, match=rf"{field} = .* is not a whole number of at least 1; \w+"):
    make(value)


@pytest.mark.parametrize("value", ["lynx:alpha=3,beta=2", None, TopK])
def test_inner_policy(value):
  with pytest.raises(ValueError, match=r"Budget.policy = .* is not a RoutingPolicy; give one"):
    Budget(value, 4)


def test_router():
  with pytest.raises(ValueError, match=r"Router.scoring = 'tanh' is not supported; use one of \('softmax', 'sigm"):
    Router(scoring="tanh")
  with pytest.raises(ValueError, match=r"Router.renormalize = 1 is not a bool"):
    Router(renormalize=1)


@pytest.mark.parametrize(
  ("logits", "top_k", "keywords", "message"),
  [
    (jnp.zeros(8), 2, {}, r"logits is float32\[8\]; give floating router logits of shape \[rows, experts\]"),
    (jnp.zeros((1, 2, 8)), 2, {}, r"logits is float32\[1, 2, 8\]"),
    (jnp.zeros((2, 8), jnp.int32), 2, {}, r"logits is int32\[2, 8\]"),
    (jnp.zeros((2, 8)), 0, {}, r"top_k = 0 is not an int from 1 to the number of experts, 8"),
    (jnp.zeros((2, 8)), 9, {}, r"top_k = 9 "),
    (jnp.zeros((2, 8)), True, {}, r"top_k = True "),
    (jnp.zeros((2, 8)), 2.0, {}, r"top_k = 2.0 "),
    (jnp.zeros((2, 8)), 2, {"policy": "lynx:alpha=3,beta=2"}, r"policy = 'lynx.* use parse_policy"),
    (jnp.zeros((2, 8)), 2, {"policy": TopK}, r"policy = <class .* is not a RoutingPolicy instance"),
    (jnp.zeros((2, 8)), 2, {"router": "softmax"}, r"router = 'softmax' is not a Router"),
    (jnp.zeros((2, 8)), 2, {"valid": jnp.ones(3, bool)}, r"valid is bool\[3\]; give bool\[2\]"),
    (jnp.zeros((2, 8)), 2, {"valid": jnp.ones(2)}, r"valid is float32\[2\]; give bool\[2\]"),
  ],
)
def test_arguments(logits, top_k, keywords, message):
  with pytest.raises(ValueError, match=message):
    lynx_route(logits, top_k, **keywords)
