"""Every implementation in a process that asks for 64-bit numbers: the same results as without, in 32 bits."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.chunk_attention import query_tiles
from pallas_kernels.dispatch import Op
from pallas_kernels.lynx_route import LYNX_ROUTE, Lynx, lynx_route_tiles


def normal(*shape, dtype=jnp.float32):
  return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), dtype)


def heads(implementation):
  cache, rotation, at = normal(2, 1, 4, 16), normal(2, 8), jnp.zeros(2, jnp.int32)
  arrays = normal(2, 32), normal(2, 16), normal(2, 16), cache, cache, at, rotation, rotation
  return pallas_kernels.append_heads(*arrays, implementation=implementation)


def prompts(implementation):
  rotation = normal(2, 3, 8)
  arrays = normal(6, 32), normal(6, 16), normal(6, 16), rotation, rotation
  return pallas_kernels.prompt_heads(*arrays, implementation=implementation)


def attention(implementation):
  cache = normal(2, 1, 300, 16)
  options = {"window": 200, "implementation": implementation}
  return pallas_kernels.decode_attention(normal(2, 2, 16), cache, cache, jnp.asarray([7, 299], jnp.int32), **options)


def latents(implementation):
  options = {"value_width": 32, "scale": 0.1, "implementation": implementation}
  return pallas_kernels.latent_attention(
    normal(2, 2, 48), normal(2, 300, 48), jnp.asarray([7, 299], jnp.int32), **options
  )


def chunks(implementation):
  pool, tables = normal(5, 1, 32, 16), jnp.asarray([[3, 0], [1, 4]], jnp.int32)
  tiles = query_tiles([(0, 2, 1, 31), (3, 17, 0, 20)], most=4)
  return pallas_kernels.chunk_attention(normal(22, 2, 16), pool, pool, tiles, tables, implementation=implementation)


def appended_latents(implementation):
  return pallas_kernels.append_latents(
    normal(2, 48), normal(2, 300, 48), jnp.asarray([7, 299], jnp.int32), implementation=implementation
  )


def experts(implementation):
  ids = jnp.asarray([[0], [2], [2]], jnp.int32)
  arrays = normal(3, 16), ids, normal(3, 1), normal(4, 32, 16), normal(4, 16, 16)
  return pallas_kernels.expert_ffn(*arrays, implementation=implementation)


def products(implementation):
  x, weight, scale = (normal(*shape, dtype=jnp.bfloat16) for shape in ((3, 48), (20, 48), (48,)))
  options = {"norm_scale": scale, "norm_eps": 1e-6, "implementation": implementation}
  return pallas_kernels.row_matmul(x, weight, **options)


def token(implementation):
  return pallas_kernels.greedy_token(normal(3, 160), implementation=implementation)


def norm(implementation):
  return pallas_kernels.rms_norm(normal(3, 16), normal(16), 1e-6, implementation=implementation)


def route(implementation):
  return lynx_route_tiles(normal(3, 8), 2, policy=Lynx(3, 2), implementation=implementation)


CALLS: dict[Op, Callable[[str | None], Any]] = {
  pallas_kernels.APPEND_HEADS: heads,
  pallas_kernels.PROMPT_HEADS: prompts,
  pallas_kernels.DECODE_ATTENTION: attention,
  pallas_kernels.APPEND_LATENTS: appended_latents,
  pallas_kernels.LATENT_ATTENTION: latents,
  pallas_kernels.CHUNK_ATTENTION: chunks,
  pallas_kernels.EXPERT_FFN: experts,
  pallas_kernels.ROW_MATMUL: products,
  pallas_kernels.GREEDY_TOKEN: token,
  pallas_kernels.RMS_NORM: norm,
  LYNX_ROUTE: route,
}
NAMED = [
  pytest.param(op, name, id=f"{op.name}-{name}")
  for op in CALLS
  for name in (None, *(one.name for one in op.implementations))
]


def test_every_op_is_called():
  assert set(CALLS) == set(pallas_kernels._OPS)


@pytest.mark.parametrize(("op", "implementation"), NAMED)
def test_64_bit_numbers_change_nothing(op, implementation):
  expected = CALLS[op](implementation)
  with jax.enable_x64(True):
    results = jax.jit(lambda: CALLS[op](implementation))()
  for result, want in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
    assert result.dtype == want.dtype
    np.testing.assert_allclose(np.asarray(result, np.float32), np.asarray(want, np.float32), rtol=1e-2, atol=1e-2)
