"""Batches of one kind, of all kinds, and of the least alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_jax.evals import Windows, adversarial, cut, expert_usage, mixed, mixes, one_domain
from lynx_jax.evals.mixes import MIXES, BatchMaker
from tests.small_models import small_params


def windows(counts, length=4):
  total = sum(counts)
  domains = tuple(f"domain {index}" for index, count in enumerate(counts) for _ in range(count))
  return Windows(tokens=np.arange(total * length, dtype=np.int32).reshape(total, length) % 97, domains=domains)


def test_streams_are_cut_into_whole_windows():
  found = cut({"a": np.arange(10, dtype=np.int32), "b": np.arange(3, dtype=np.int32)}, 4)
  assert found.tokens.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
  assert found.domains == ("a", "a")


def test_text_shorter_than_a_window():
  with pytest.raises(ValueError, match="no text is as long as a window of 4"):
    cut({"a": np.arange(3, dtype=np.int32)}, 4)


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=4), batch=st.integers(1, 4), seed=st.integers(0, 9))
def test_a_sequence_is_in_one_batch_at_most(counts, batch, seed):
  if not sum(counts):
    return
  drawn = windows(counts)
  usage = np.random.default_rng(seed).random((len(drawn.tokens), 5))
  for batches in (
    mixed(drawn, batch, 99, seed=seed),
    one_domain(drawn, batch, 99, seed=seed),
    adversarial(drawn, usage, batch, 99, seed=seed),
  ):
    rows = [row for indices in batches for row in indices.tolist()]
    assert len(rows) == len(set(rows))
    assert all(len(indices) == batch for indices in batches)
  assert all(len({drawn.domains[row] for row in indices}) == 1 for indices in one_domain(drawn, batch, 99, seed=seed))
  assert len(mixed(drawn, batch, 99)) == sum(counts) // batch
  assert len(one_domain(drawn, batch, 99)) == sum(count // batch for count in counts)


def test_domains_take_turns():
  found = one_domain(windows([4, 6]), 2, 4)
  assert [windows([4, 6]).domains[indices[0]] for indices in found] == ["domain 0", "domain 1"] * 2


def test_adversarial_batches_share_less_than_mixed_ones():
  usage = np.repeat(np.eye(4), 4, axis=0)
  drawn = windows([4] * 4)

  def shared(batches):
    return sum(float((usage[rows] @ usage[rows].T).sum()) for rows in batches)

  assert shared(adversarial(drawn, usage, 4, 4)) == 16
  assert shared(mixed(drawn, 4, 4)) > 16


def test_usage_counts_the_experts_that_each_sequence_runs():
  drawn = windows([3, 2], length=7)
  usage = expert_usage(small_params(), drawn, rows=2)
  np.testing.assert_allclose(np.linalg.norm(usage, axis=1), 1, rtol=1e-6)
  alone = expert_usage(small_params(), Windows(tokens=drawn.tokens[3:4], domains=("x",)))
  np.testing.assert_allclose(usage[3], alone[0], rtol=1e-6)


def test_only_adversarial_batches_run_the_model_and_once(monkeypatch):
  runs = []
  monkeypatch.setattr(mixes, "expert_usage", lambda *given: runs.append(given) or expert_usage(*given))
  drawn = windows([3, 2], length=7)
  params = small_params()
  maker = BatchMaker(params, drawn)
  found = {mix: [rows.tolist() for rows in maker.indices(mix, 2, 9, seed=1)] for mix in MIXES[:2]}
  assert not runs
  found["adversarial"] = [rows.tolist() for rows in maker.indices("adversarial", 2, 9, seed=1)]
  assert len(maker.indices("adversarial", 3, 9)) == 1
  assert len(runs) == 1
  usage = expert_usage(params, drawn)
  for mix, batches in (
    ("mixed", mixed(drawn, 2, 9, seed=1)), ("one-domain", one_domain(drawn, 2, 9, seed=1)),
    ("adversarial", adversarial(drawn, usage, 2, 9, seed=1)),
  ):  # fmt: skip
    assert found[mix] == [rows.tolist() for rows in batches]
