"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): one latent a position serves all heads."""

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lynx_jax.models.attention import causal_attention
from lynx_jax.models.linear import bias, normal, normed_matmul, normed_matmuls, weight
from lynx_jax.models.linear import value as _array
from lynx_jax.models.norms import Norm, RMSNorm
from lynx_jax.models.rope import Turn, rotary_turn
from lynx_jax.models.spec import MLASpec
from pallas_kernels import latent_attention, row_matmul, row_matmuls
from pallas_kernels.append_heads.reference import write_positions
from pallas_kernels.rotary import rotate

# DeepSeek's norms of latents have this one, whatever the configuration's `rms_norm_eps` says.
_LATENT_EPS = 1e-6

Projected: TypeAlias = tuple[Float[Array, "T NQ"], Float[Array, "T W"]]
"""Queries, heads side by side, and the latent beside the rotary key: before norms and positions."""


class LatentCache(NamedTuple):
  """One layer's latents, normed, and behind each the rotary key that all heads share, turned: W numbers a position."""

  latent: Float[Array, "B C W"]


class MLA(nnx.Module):
  """Projections of one layer: R numbers of latent, P of rotary key; heads of H + P for scores and of U for values.

  query [N * (H + P), D], or through a latent of its own query_down [Q, D] and query_up [N * (H + P), Q]; latent
  [R + P, D]; key_up [N, H, R] and value_up [N, U, R], which expand a latent; output [D, N * U].
  """

  def __init__(self, width: int, spec: MLASpec, *, rngs: nnx.Rngs, dtype: jnp.dtype):
    self.spec = spec
    queries = spec.heads * (spec.key_width + spec.rope_width)
    rank = spec.query_rank
    self.query = normal(rngs, (queries, width), dtype) if rank is None else None
    self.query_down = None if rank is None else normal(rngs, (rank, width), dtype)
    self.query_norm = None if rank is None else RMSNorm(rank, _LATENT_EPS, dtype=dtype)
    self.query_up = None if rank is None else normal(rngs, (queries, rank), dtype)
    self.query_down_bias = None if rank is None else bias(rank, dtype=dtype, where=spec.bias)
    self.latent = normal(rngs, (spec.cache_width, width), dtype)
    self.latent_bias = bias(spec.cache_width, dtype=dtype, where=spec.bias)
    self.latent_norm = RMSNorm(spec.rank, _LATENT_EPS, dtype=dtype)
    self.key_up = normal(rngs, (spec.heads, spec.key_width, spec.rank), dtype)
    self.value_up = normal(rngs, (spec.heads, spec.value_width, spec.rank), dtype)
    self.output = normal(rngs, (width, spec.heads * spec.value_width), dtype)
    self.output_bias = bias(width, dtype=dtype, where=spec.bias)

  def project_in(self, x_TD: Float[Array, "T D"], norm: Norm) -> Projected:
    """Queries and latents of normed rows."""
    if self.query is not None:
      query, latent = normed_matmuls(x_TD, norm, (self.query, self.latent), (None, self.latent_bias))
      return query, latent
    assert self.query_down is not None
    assert self.query_up is not None
    assert self.query_norm is not None
    down, latent = normed_matmuls(x_TD, norm, (self.query_down, self.latent), (self.query_down_bias, self.latent_bias))
    return normed_matmul(down, self.query_norm, self.query_up), latent

  def attend_prompts(
    self, projected: Projected, positions_BL: Int[Array, "B L"], lengths_B: Int[Array, "B"]
  ) -> tuple[Float[Array, "T NU"], LatentCache]:
    """Rows of L positions attend to themselves, causally, with latents expanded to every head's keys and values."""
    spec, (b, length) = self.spec, positions_BL.shape
    content, turned, entry = self._in_position(
      projected, rotary_turn(positions_BL, lengths_B, spec.rope_width, spec.rope), (b, length)
    )
    weights = [expansion[...].reshape(-1, spec.rank) for expansion in (self.key_up, self.value_up)]
    key, value = (
      x.reshape(b, length, spec.heads, -1) for x in row_matmuls(entry[..., : spec.rank].reshape(-1, spec.rank), weights)
    )
    rotary_key = jnp.broadcast_to(entry[:, :, None, spec.rank :], (b, length, spec.heads, spec.rope_width))
    query, key = jnp.concatenate([content, turned], axis=-1), jnp.concatenate([key, rotary_key], axis=-1)
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    mixed = causal_attention(query, key, value, lengths_B, None, scale=spec.scale)
    return mixed.reshape(b * length, -1), LatentCache(entry)

  def attend_cached(
    self, projected: Projected, cache: LatentCache, positions_B: Int[Array, "B"]
  ) -> tuple[Float[Array, "B NU"], LatentCache]:
    """One position a row is written to the cache, and attends to the latents themselves.

    Queries are mapped through the keys' expansion, and what they mix through the values' (the absorbed form): nothing
    is expanded. The cache's memory is taken over.
    """
    spec, rows = self.spec, positions_B.shape[0]
    turn = rotary_turn(positions_B[:, None], positions_B + 1, spec.rope_width, spec.rope)
    content, turned, entry = self._in_position(projected, turn, (rows, 1))
    latent = write_positions(cache.latent[:, None], entry, positions_B)[:, 0]
    absorbed = _by_head(content[:, 0], self.key_up[...])
    mixed = latent_attention(
      jnp.concatenate([absorbed, turned[:, 0]], axis=-1), latent, positions_B, value_width=spec.rank, scale=spec.scale
    )
    values = _by_head(mixed, self.value_up[...].swapaxes(1, 2))
    return values.reshape(rows, -1), LatentCache(latent)

  def _in_position(
    self, projected: Projected, turn: Turn, shape: tuple[int, int]
  ) -> tuple[Float[Array, "B L N H"], Float[Array, "B L N P"], Float[Array, "B L W"]]:
    """The part of queries that has no position, the part that is turned, and what is cached."""
    spec = self.spec
    query, latent = projected[0].reshape(*shape, spec.heads, -1), projected[1].reshape(*shape, -1)
    content, query_rotary = jnp.split(query, [spec.key_width], axis=-1)
    latent, key_rotary = jnp.split(latent, [spec.rank], axis=-1)
    turned = rotate(self._by_halves(query_rotary), *turn)
    shared = rotate(self._by_halves(key_rotary)[:, :, None], *turn)[:, :, 0]
    return content, turned, jnp.concatenate([self.latent_norm(latent), shared], axis=-1)

  def _by_halves(self, x: Float[Array, "*rows P"]) -> Float[Array, "*rows P"]:
    """Neighbours, which these checkpoints turn together, as (x[i], x[i + P/2]); scores are the same in either order."""
    if not self.spec.neighbours:
      return x
    return x.reshape(*x.shape[:-1], -1, 2).swapaxes(-1, -2).reshape(x.shape)

  def project_out(self, mixed_TX: Float[Array, "T NU"], residual_TD: Float[Array, "T D"] | None) -> Float[Array, "T D"]:
    """The heads' results mapped back to the model width, and added to the residual stream where one is given."""
    return row_matmul(mixed_TX, weight(self.output), bias=_array(self.output_bias), residual_TO=residual_TD)


def _by_head(x_BNI: Float[Array, "B N I"], weight_NIO: Float[Array, "N I O"]) -> Float[Array, "B N O"]:
  """Each head's rows times its own weight; heads first, as the CPU's bfloat16 products into float32 want them."""
  y_NBO = jnp.einsum("nbi,nio->nbo", x_BNI.swapaxes(0, 1), weight_NIO, preferred_element_type=jnp.float32)
  return y_NBO.swapaxes(0, 1).astype(x_BNI.dtype)
