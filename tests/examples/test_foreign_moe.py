"""The layer of another package: unchanged under its own routing, with fewer experts under a policy."""

import importlib.util
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lynx_jax

# Tunix uses what JAX and Flax have renamed.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def foreign():
  """The example; Tunix is installed here without what its trainers need, so only its models are imported."""
  found = importlib.util.find_spec("tunix")
  if found is None:
    pytest.skip("needs Tunix: pip install --no-deps google-tunix==0.1.7")
  package = types.ModuleType("tunix")
  package.__path__ = list(found.submodule_search_locations or ())
  sys.modules["tunix"] = package
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from examples import foreign_moe

  yield foreign_moe
  for name in [name for name in sys.modules if name.split(".")[0] == "tunix"]:
    del sys.modules[name]


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_the_layer_computes_the_same_under_its_own_routing(foreign, rows):
  layer = foreign.layer_of(seed=rows)
  x = jax.random.normal(jax.random.key(rows), (rows, 2, 64))
  expected = np.asarray(layer(x))
  for call in (foreign.LynxMoELayer(layer, lynx_jax.TopK()), jax.jit(foreign.LynxMoELayer(layer, lynx_jax.TopK()))):
    np.testing.assert_allclose(call(x), expected, atol=1e-5 * np.abs(expected).max())


def test_a_policy_reads_fewer_experts_and_gives_each_row_the_best_of_them(foreign):
  layer = foreign.layer_of()
  x = jax.random.normal(jax.random.key(1), (16, 1, 64))
  own, lynx = (foreign.LynxMoELayer(layer, policy) for policy in (lynx_jax.TopK(), lynx_jax.Lynx(alpha=3, beta=2)))
  assert foreign.experts_read(lynx, x) < foreign.experts_read(own, x)
  # The definition, by the layer's own experts: softmax over the best of the set, experts in float32.
  logits = layer.router(x[:, 0])
  routing = lynx_jax.lynx_route(logits, 4, policy=lynx.policy)
  expected = jnp.zeros_like(x[:, 0])
  for rank in range(4):
    gate, up, down = (part[...][routing.ids[:, rank]] for part in (layer.gate_proj, layer.up_proj, layer.down_proj))
    hidden = jax.nn.silu(jnp.einsum("td,tdf->tf", x[:, 0], gate)) * jnp.einsum("td,tdf->tf", x[:, 0], up)
    expected += routing.weights[:, rank, None] * jnp.einsum("tf,tfd->td", hidden, down)
  np.testing.assert_allclose(lynx(x)[:, 0], expected, atol=1e-5 * float(jnp.abs(expected).max()))


def test_the_example_runs(foreign, capsys):
  foreign.main()
  first, *others = capsys.readouterr().out.splitlines()
  assert first.startswith("topk: ")
  assert float(first.split()[-1]) < 1e-5
  assert len(others) == 2
