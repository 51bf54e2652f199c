"""Keep sets, experts and weights of every policy are those that were recorded."""

import numpy as np
import pytest

from tests.goldens import routes, stored


@pytest.mark.parametrize("name", routes.CASES)
def test_routes_are_those_recorded(name: str):
  found, recorded = routes.record(name), stored.read("routes")[name]
  assert found.keys() == recorded.keys()
  for policy, now in found.items():
    assert now["active"] == recorded[policy]["active"], policy
    assert now["ids"] == recorded[policy]["ids"], policy
    # A weight that lies between two roundings may take either; router.scale multiplies weights and their noise.
    tolerance = 2e-5 * max(1.0, routes.CASES[name].router.scale)
    np.testing.assert_allclose(now["weights"], recorded[policy]["weights"], rtol=0, atol=tolerance, err_msg=policy)
