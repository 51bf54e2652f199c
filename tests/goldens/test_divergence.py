"""What policies cost the embedded model is what was recorded."""

import pytest

from tests.goldens import divergence, stored

# The judged tokens' scores are sums of float32 products. Machines add them in other orders, which moves a divergence of
# a hundredth of a nat in its fifth digit. A token that takes another expert at a near tie would move it in its third.
RELATIVE = 1e-3


@pytest.mark.slow
def test_policies_cost_what_was_recorded():
  found, recorded = divergence.record(), stored.read("divergence")
  assert found.keys() == recorded.keys()
  for policy, now in found.items():
    assert now == pytest.approx(recorded[policy], rel=RELATIVE, abs=1e-6), policy
