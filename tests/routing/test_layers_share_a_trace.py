"""Layers with equal shapes and settings share the trace of their routing, so that deep models build quickly."""

import collections

import jax
import jax.numpy as jnp
import pytest

from lynx_jax.engine.steps import decode_step, prefill
from lynx_jax.models.decoder import abstract_decoder
from lynx_jax.models.params import Params
from lynx_jax.routing import Auto, CountVote, Lynx
from pallas_kernels.lynx_route import cpu, remap, triton
from tests.small_models import small_spec


def traces(monkeypatch, layers, policy, **options):
  """How often the code of each implementation is traced for a prefill and a decode step of `layers` layers."""
  spec = small_spec(layers=(small_spec().layers[1],) * layers)
  counts = collections.Counter()

  def counted(name, fn):
    def call(*args, **kwargs):
      counts[name] += 1
      return fn(*args, **kwargs)

    return call

  with monkeypatch.context() as patched:
    patched.setattr(triton, "_kernel", counted("pallas", triton._kernel))
    patched.setattr(cpu, "cpu_call", counted("cpu", cpu.cpu_call))
    patched.setattr(remap, "score_rows", counted("plain JAX", remap.score_rows))
    jax.clear_caches()
    ids, lengths = jnp.zeros((4, 8), jnp.int32), jnp.full((4,), 8, jnp.int32)

    def token(params):
      return decode_step(params, prefill(params, ids, lengths, 16, **options), policy=policy).token

    jax.eval_shape(token, Params(abstract_decoder(spec)))
  return counts


@pytest.mark.parametrize("policy", [None, Auto(), CountVote(4)], ids=repr)
def test_layers_are_traced_as_often_as_one(monkeypatch, policy):
  one = traces(monkeypatch, 1, policy)
  assert one["plain JAX"] >= 1
  assert traces(monkeypatch, 3, policy) == one


def test_48_layers_and_their_statistics_too(monkeypatch):
  one = traces(monkeypatch, 1, Lynx(3, 2), collect_totals=True)
  assert traces(monkeypatch, 48, Lynx(3, 2), collect_totals=True) == one
