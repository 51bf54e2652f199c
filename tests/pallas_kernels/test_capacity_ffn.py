"""Dispatch with a capacity: the exact sum while everything fits, a counted loss where it does not."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import capacity_ffn, expert_ffn
from tests.pallas_kernels.test_expert_ffn import CLAMPED, biases_of, by_numpy, weights_of


def inputs(rows=20, experts=4, top_k=2, width=8):
  random = np.random.default_rng(0)
  x = jnp.asarray(random.normal(size=(rows, width)), jnp.float32)
  ids = jnp.asarray(np.stack([random.permutation(experts)[:top_k] for _ in range(rows)]), jnp.int32)
  return x, ids, jnp.asarray(random.random((rows, top_k)), jnp.float32), *weights_of(experts, width, 12)


def test_with_room_for_all_it_equals_expert_ffn_and_its_gradients():
  x, ids, weights, *experts = inputs()

  def by_capacity(x, weights, *experts):
    return capacity_ffn(x, ids, weights, *experts, capacity=20)[0]

  def exactly(x, weights, *experts):
    return expert_ffn(x, ids, weights, *experts)

  y, dropped = capacity_ffn(x, ids, weights, *experts, capacity=20)
  assert dropped == 0
  np.testing.assert_allclose(y, exactly(x, weights, *experts), rtol=1e-5, atol=1e-5)
  found, expected = (
    jax.jit(jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1, 2, 3)))(x, weights, *experts)
    for f in (by_capacity, exactly)
  )
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_assignments_past_the_capacity_are_dropped_in_row_order_and_counted():
  x, ids, weights, *experts = inputs()
  capacity = 3
  y, dropped = capacity_ffn(x, ids, weights, *experts, capacity=capacity)
  kept, seats = np.zeros(ids.shape, np.float32), dict.fromkeys(range(4), 0)
  for place, expert in np.ndenumerate(np.asarray(ids)):
    kept[place] = seats[int(expert)] < capacity
    seats[int(expert)] += 1
  assert int(dropped) == ids.size - int(kept.sum()) > 0
  expected = by_numpy(x, ids, np.asarray(weights) * kept, *experts, valid=np.ones(20, bool))
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_biases_and_the_activation_are_those_of_expert_ffn():
  x, ids, weights, *experts = inputs()
  more = biases_of(4, 8, 12) | {"activation": CLAMPED}
  y, _ = capacity_ffn(x, ids, weights, *experts, capacity=20, **more)
  np.testing.assert_allclose(
    y, by_numpy(x, ids, weights, *experts, valid=np.ones(20, bool), **more), rtol=1e-5, atol=1e-5
  )
