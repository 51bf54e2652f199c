"""Policies as text: reading what was written, and errors that say what to write instead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_jax.routing import (
  OEA,
  Auto,
  Budget,
  CountVote,
  Lynx,
  MassFloor,
  Prune,
  RoutingPolicy,
  TopK,
  XShare,
  format_policy,
  parse_policy,
)
from tests.routing.routing_cases import POLICIES

sizes = st.integers(1, 10**6)
plain_policies = st.one_of(
  st.just(TopK()),
  st.builds(Prune, sizes),
  st.builds(CountVote, sizes),
  st.builds(OEA, sizes),
  st.builds(XShare, sizes, sizes),
  st.builds(Lynx, st.floats(0, 1e6, exclude_min=True), st.none() | sizes),
  st.builds(MassFloor, st.floats(0, 1, exclude_min=True)),
  st.builds(Auto, st.floats(0, 100, exclude_min=True)),
)
policies = st.recursive(plain_policies, lambda inner: st.builds(Budget, inner, sizes), max_leaves=3)


@given(policies)
def test_parse_reads_what_format_writes(policy):
  assert parse_policy(format_policy(policy)) == policy


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_format_writes_canonical_text(policy):
  text = format_policy(policy)
  assert format_policy(parse_policy(text)) == text


@pytest.mark.parametrize(
  ("text", "policy"),
  [
    ("topk", TopK()),
    ("lynx:alpha=3,beta=2", Lynx(3, 2)),
    (" lynx : beta = none , alpha = 1e0 ", Lynx(1, None)),
    ("oea:k0=2", OEA(2)),
    ("xshare:budget=24", XShare(24, k0=1)),
    ("budget:max_active=16,policy=(lynx:alpha=3,beta=2)", Budget(Lynx(3, 2), 16)),
    ("budget:policy=(budget:policy=(topk),max_active=9),max_active=8", Budget(Budget(TopK(), 9), 8)),
  ],
)
def test_texts(text, policy):
  assert parse_policy(text) == policy


def test_numbers_are_written_short():
  assert format_policy(Budget(Lynx(3.0, None), 16)) == "budget:policy=(lynx:alpha=3,beta=none),max_active=16"
  assert format_policy(MassFloor(0.95)) == "mass_floor:tau=0.95"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("lnyx:alpha=3,beta=2", r"unknown policy 'lnyx'.*did you mean 'lynx'\?.*auto, budget, .*topk, .*xshare"),
    ("TopK", r"unknown policy 'TopK'.*did you mean 'topk'\?"),
    ("", r"unknown policy ''.*There are: auto"),
    ("lynx:alhpa=3,beta=2", r"unknown field 'alhpa' of policy 'lynx'.*did you mean 'alpha'\?.*alpha, beta"),
    ("topk:k=2", r"unknown field 'k' of policy 'topk'.*There are: none"),
    ("oea:", r"unknown field '' of policy 'oea'.*There are: k0"),
    ("lynx:alpha=3", r"lacks beta; write lynx:alpha=VALUE,beta=VALUE"),
    ("lynx", r"lacks alpha, beta"),
    ("lynx:alpha,beta=2", r"field 'alpha' has no value"),
    ("lynx:alpha=3,alpha=4,beta=2", r"field 'alpha' is given twice"),
    ("lynx:alpha=much,beta=2", r"cannot read 'much', the value of 'alpha'.*give a number"),
    ("lynx:alpha=-3,beta=2", r"Lynx.alpha is -3: expected a number above 0"),
    ("lynx:alpha=nan,beta=2", r"Lynx.alpha is nan: expected a number above 0"),
    ("budget:max_active=4,policy=(lynx:alpha=3,beta=2", r"brackets do not pair up"),
    ("budget:max_active=4,policy=lynx:alpha=3)", r"brackets do not pair up"),
    ("budget:max_active=4,policy=(oae:k0=2)", r"unknown policy 'oae'.*did you mean 'oea'\?"),
    ("budget:max_active=4,policy=3", r"Budget.policy is 3: expected a policy"),
    ("prune:k0=2.5", r"Prune.k0 is 2.5: expected a whole number"),
    ("prune:k0=none", r"Prune.k0 is None: expected a whole number"),
    ("count_vote:keep=99999999999999999999", r"CountVote.keep is 9+: expected a whole number from 1 to 2147483647"),
    (None, r"text of a policy is None: expected text; such as 'auto'"),
    (Auto(), r"text of a policy is Auto\(share=0.5\): expected text"),
    ("budget:max_active=4,policy=(" * 1200 + "topk" + ")" * 1200, r"policies are nested more than 8 deep in 'budget"),
  ],
)
@pytest.mark.usefixtures("own_errors")
def test_errors_name_the_part_and_the_remedy(text, message):
  with pytest.raises(ValueError, match=message):
    parse_policy(text)


def test_a_users_own_policy_has_no_text():
  class Mine(RoutingPolicy):
    def keep_set(self, scores):
      raise AssertionError

  with pytest.raises(ValueError, match=r"has no text form.*topk"):
    format_policy(Mine())
