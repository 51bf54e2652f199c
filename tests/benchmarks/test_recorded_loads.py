"""The recorded routing that op benchmarks use, beside the record itself."""

import numpy as np
import pytest

from benchmarks.kernels.recorded_loads import RECORD, recorded_loads, recorded_logits
from pallas_kernels.gates.shapes import MODEL_SHAPES


def _chosen(logits, top_k):
  return np.argsort(-logits, axis=1, kind="stable")[:, :top_k]


def test_a_gpt_oss_layer_routes_as_recorded():
  record = np.load(RECORD)
  for step in range(len(record["ids"])):
    logits = recorded_logits(64, 32, 4, step=step)
    want = record["ids"][step, 6].astype(np.int64)
    np.testing.assert_array_equal(np.sort(_chosen(logits, 4)), np.sort(want))
    # The softmax of the chosen four is what was recorded, to the 255th that it was rounded to.
    of_chosen = np.take_along_axis(logits, want, axis=1)
    weights = np.exp(of_chosen) / np.exp(of_chosen).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights, record["weights"][step, 6] / 255, atol=1.5 / 255)


@pytest.mark.parametrize("shape", MODEL_SHAPES.values(), ids=lambda shape: shape.name)
def test_every_model_shape_gets_finite_logits_and_as_many_rows_as_recorded(shape):
  logits = recorded_logits(16, shape.experts, shape.top_k)
  assert logits.shape == (16, shape.experts)
  assert np.isfinite(logits).all()
  loads = recorded_loads(shape.experts, shape.top_k)
  assert loads.sum() == 256 * shape.top_k


def test_recorded_experts_are_shared_more_than_drawn_ones():
  drawn = np.random.default_rng(0).normal(size=(16, 32))
  live = [len(np.unique(_chosen(logits, 4))) for logits in (recorded_logits(16, 32, 4), drawn)]
  assert live[0] < live[1]
  loads = recorded_loads(32, 4)
  assert loads.max() > 2 * loads.mean()


def test_what_the_record_cannot_give_is_refused():
  with pytest.raises(ValueError, match="64 sequences"):
    recorded_logits(65, 32, 4)
  with pytest.raises(ValueError, match="experts is 60"):
    recorded_logits(4, 60, 4)
