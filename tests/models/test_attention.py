"""How prompts attend, against the definition in float64, in both dtypes and over batch, group and window sizes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.models import causal_attention as module
from lynx_jax.models.causal_attention import causal_attention

HEADS, WIDTH = 4, 16


def by_numpy(query, key, value, visible, scale=WIDTH**-0.5, sinks=None):
  """One query and head at a time: query [B, L, N, H], key and value [B, C, G, H], visible [B, L, C]."""
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  mixed = np.zeros_like(query)
  for b, at, head in np.ndindex(query.shape[:3]):
    group = head * key.shape[2] // query.shape[2]
    seen = np.flatnonzero(visible[b, at])
    share = np.exp(key[b, seen, group] @ query[b, at, head] * scale)
    mixed[b, at, head] = share / (share.sum() + (0 if sinks is None else np.exp(sinks[head]))) @ value[b, seen, group]
  return mixed


def drawn(rows, length, groups, dtype):
  random = np.random.default_rng(rows * 100 + groups)
  shapes = ((rows, length, HEADS, WIDTH), (rows, length, groups, WIDTH), (rows, length, groups, WIDTH))
  return [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]


def attended(query, key, value, lengths, window=None, **more):
  """`causal_attention`, which takes heads before positions."""
  query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
  return causal_attention(query, key, value, jnp.asarray(lengths), window, **more)


def tolerance(dtype) -> dict[str, Any]:
  # bfloat16: the shares and the result are rounded to 8 bits.
  return {"rtol": 1e-5, "atol": 1e-5} if dtype == jnp.float32 else {"rtol": 2e-2, "atol": 2e-2}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (2, 4), (8, 2), (3, 1)])
@pytest.mark.parametrize("window", [None, 3])
def test_causal_attention(dtype, rows, groups, window):
  length = 12
  query, key, value = drawn(rows, length, groups, dtype)
  lengths = np.random.default_rng(1).integers(1, length + 1, size=rows).astype(np.int32)
  at = np.arange(length)
  visible = (at[None] <= at[:, None]) & (at[None] > at[:, None] - (window or length))
  visible = visible[None] & (at < lengths[:, None])[:, None]
  visible |= ~visible.any(axis=-1, keepdims=True)  # padding: anything finite will do
  mixed = jax.jit(functools.partial(attended, window=window))(query, key, value, lengths)
  expected = by_numpy(query, key, value, visible)
  for row, end in enumerate(lengths):
    np.testing.assert_allclose(np.asarray(mixed[row, :end], np.float64), expected[row, :end], **tolerance(dtype))
  assert np.isfinite(np.asarray(mixed, np.float32)).all()


def test_chunks_sinks_and_a_scale():
  query, key, value = drawn(2, 12, 2, jnp.float32)
  at, lengths = np.arange(12), np.asarray([12, 7], np.int32)
  visible = (at[None] <= at[:, None]) & (at[None] // 5 == at[:, None] // 5)
  sinks = jnp.asarray([-1.0, 0.0, 0.5, 2.0], jnp.float32)
  more = {"chunk": 5, "scale": 0.4, "sinks": sinks}
  mixed = attended(query, key, value, lengths, **more)
  expected = by_numpy(query, key, value, np.broadcast_to(visible, (2, 12, 12)), 0.4, sinks)
  for row, end in enumerate(lengths):
    np.testing.assert_allclose(mixed[row, :end], expected[row, :end], rtol=1e-5, atol=1e-5)


def test_a_long_prompt_is_taken_in_blocks_of_queries_with_the_same_result(monkeypatch):
  query, key, value = drawn(2, 32, 2, jnp.float32)
  lengths = jnp.asarray([32, 19], jnp.int32)
  whole = attended(query, key, value, lengths, 7)
  monkeypatch.setattr(module, "_QUERY_BLOCK", 8)
  np.testing.assert_allclose(attended(query, key, value, lengths, 7), whole, rtol=1e-6, atol=1e-6)
