"""Rates of native products, at sizes that say nothing of speed."""

import pytest

from benchmarks.kernels import product_bandwidth
from pallas_kernels.cpu import unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


def test_each_number_of_rows_has_its_rates():
  found = list(product_bandwidth.product_bandwidths([1, 5], repeats=2, read=1 << 20))
  assert [speed.rows for speed in found] == [1, 5]
  assert all(min(speed.cached, speed.from_memory, speed.read, speed.share) > 0 for speed in found)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_every_kind_of_weights_is_timed(weights: str):
  (found,) = product_bandwidth.product_bandwidths([97], weights=weights, inner=70, repeats=1, read=1 << 20)
  assert found.cached > 0


def test_an_unknown_kind_is_an_error(capsys: pytest.CaptureFixture[str]):
  assert product_bandwidth.main(["--rows", "1", "--weights", "int3"]) == 2
  assert "weights is 'int3'" in capsys.readouterr().err
