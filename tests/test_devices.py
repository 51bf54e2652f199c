"""Results do not depend on which device computes them, nor on how many: eight forced CPU devices."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import lynx_jax
from tests.small_models import random_prompts, small_params

POLICIES = ("topk", "lynx:alpha=1,beta=1", "auto", "xshare:budget=12,k0=1")
_route = jax.jit(lynx_jax.lynx_route, static_argnames=("top_k", "policy"))


def decoded(device) -> np.ndarray:
  """Tokens of three rows, one of them shorter, decoded on one device."""
  params = jax.device_put(small_params(), device)
  prompts, lengths = jax.device_put(
    (np.array(random_prompts([6] * 3), np.int32), np.array([6, 2, 6], np.int32)), device
  )
  state = jax.jit(lynx_jax.prefill, static_argnames="capacity")(params, prompts, lengths, 32)
  loop = jax.jit(lynx_jax.decode_loop, static_argnames="policy")
  state = loop(params, state, policy=lynx_jax.parse_policy("lynx:alpha=1,beta=1"), max_steps=np.int32(12))
  assert state.output.devices() == {device}
  return np.asarray(state.output)


def test_another_device_decodes_the_same_tokens(eight_devices):
  first, sixth = decoded(eight_devices[0]), decoded(eight_devices[5])
  np.testing.assert_array_equal(sixth, first)
  assert (first[:, :13] != first[:, :1]).any()


@pytest.mark.parametrize("text", POLICIES)
def test_logits_over_eight_devices_are_routed_as_on_one(eight_devices, text: str):
  policy = lynx_jax.parse_policy(text)
  logits = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
  valid = np.arange(16) != 3
  whole = _route(jax.device_put(logits, eight_devices[0]), top_k=4, policy=policy, valid=valid)
  mesh = Mesh(np.array(eight_devices), ("part",))
  for spec in (PartitionSpec("part"), PartitionSpec(None, "part")):
    parts = jax.device_put(logits, NamedSharding(mesh, spec))
    assert len(parts.sharding.device_set) == 8
    routing = _route(parts, top_k=4, policy=policy, valid=valid)
    assert len(routing.ids.sharding.device_set) == 8
    np.testing.assert_array_equal(routing.ids, whole.ids)
    np.testing.assert_array_equal(routing.active, whole.active)
    np.testing.assert_allclose(routing.weights, whole.weights, rtol=1e-6)
