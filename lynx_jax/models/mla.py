"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): one latent a position serves all heads."""

import dataclasses
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Int32
from numpy.typing import DTypeLike

from lynx_jax.models.causal_attention import causal_attention
from lynx_jax.models.declare import Declare
from lynx_jax.models.linear import array_of, normed_matmul, normed_matmuls, weight
from lynx_jax.models.norms import Norm, RMSNorm
from lynx_jax.models.paged import PagedRows, attend_latent_blocks
from lynx_jax.models.rope import RopeSpec, Rotary, Rotation
from lynx_jax.placement import Role
from pallas_kernels import append_latents, latent_attention, row_matmul, row_matmuls
from pallas_kernels.block_tables import BLOCK
from pallas_kernels.checks import field_of, number_fields, require, whole_fields
from pallas_kernels.rotary import rotate

# DeepSeek's norms of latents add this, whatever the configuration's `rms_norm_eps` says.
_LATENT_EPS = 1e-6

Projected: TypeAlias = tuple[Float[Array, "T NQ"], Float[Array, "T W"]]
"""Queries, heads side by side, and the latent beside the rotary key: before norms and positions."""


class LatentCache(NamedTuple):
  """One layer's latents, normed, each followed by the rotated key that all heads share: W numbers a position."""

  latent: Float[Array, "B C W"]

  def with_room(self, positions: int) -> "LatentCache":
    """The same cache with room for that many positions, zeros behind those it has."""
    return LatentCache(jnp.pad(self.latent, [(0, 0), (0, positions - self.latent.shape[1]), (0, 0)]))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LatentSpec:
  """The kind of cache that multi-head latent attention fills.

  Attributes:
    width: numbers of one position, latent and rotary key (W).
    dtype: of the numbers.
  """

  width: int
  dtype: np.dtype

  @property
  def numbers_per_position(self) -> int:
    """The latent and the rotary key of one position."""
    return self.width

  @property
  def bytes_per_position(self) -> int:
    """Bytes that one position takes."""
    return self.numbers_per_position * self.dtype.itemsize

  def allocate(self, rows: int, positions: int) -> LatentCache:
    """An empty cache for `rows` rows of that many positions."""
    return LatentCache(jnp.zeros((rows, positions, self.width), self.dtype))

  def allocate_blocks(self, blocks: int) -> LatentCache:
    """An empty paged cache: a pool of that many blocks."""
    return self.allocate(blocks, BLOCK)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MLASpec:
  """Multi-head latent attention: one latent a position gives the keys and values of all heads.

  Attributes:
    heads: query heads (N).
    rank: width of the latent (`kv_lora_rank`).
    query_rank: width of the queries' own latent (`q_lora_rank`), or None where they have none.
    key_width: width of a head's part without position (`qk_nope_head_dim`).
    rope_width: width of a head's rotated part, even; its key is shared by all heads (`qk_rope_head_dim`).
    value_width: width of a head's values (`v_head_dim`).
    rope: the rotary embedding of queries and keys.
    scale: multiplies the scores.
    neighbours: whether the checkpoint rotates pairs of neighbours, not a head's first half with its second.
    bias: whether the projections to latents and back to the model width carry biases.
  """

  heads: int
  rank: int
  query_rank: int | None
  key_width: int
  rope_width: int
  value_width: int
  rope: RopeSpec
  scale: float
  neighbours: bool = True
  bias: bool = False

  def __post_init__(self) -> None:
    whole_fields(self, "heads", "rank", "key_width", "rope_width", "value_width", least=1)
    if self.query_rank is not None:
      whole_fields(self, "query_rank", least=1)
    even = self.rope_width % 2 == 0
    require(even, field_of(self, "rope_width"), self.rope_width, "an even number", "a rotation needs pairs")
    number_fields(self, "scale", above=0)

  @property
  def rotary(self) -> Rotary:
    """The kind of rotation that the layer's heads need."""
    return Rotary(self.rope_width, self.rope)

  def cache_spec(self, dtype: DTypeLike) -> LatentSpec:
    """The kind of cache that the layer fills, of numbers of `dtype`."""
    return LatentSpec(width=self.rank + self.rope_width, dtype=np.dtype(dtype))

  def build(self, width: int, eps: float, declare: Declare) -> "MLA":
    """The layer's projections, in a model of that width; norms of latents ignore the model's own `eps`."""
    del eps
    return MLA(width, self, declare)

  def describe(self) -> str:
    """The sizes in words."""
    queries = "straight" if self.query_rank is None else f"through a latent of {self.query_rank}"
    return f"{self.heads} heads over a latent of {self.rank} and a rotary key of {self.rope_width}, queries {queries}"


class MLA(nnx.Module):
  """Projections of one layer: R numbers of latent, P of rotary key; heads of H + P for scores and of U for values.

  query [N * (H + P), D], or through a latent of its own query_down [Q, D] and query_up [N * (H + P), Q]; latent
  [R + P, D]; key_up [N, H, R] and value_up [N, U, R], which expand a latent; output [D, N * U].
  """

  def __init__(self, width: int, spec: MLASpec, declare: Declare):
    self.spec = spec
    query_width, latent_width = spec.heads * (spec.key_width + spec.rope_width), spec.rank + spec.rope_width
    rank = spec.query_rank
    self.query = declare.param((query_width, width), "NQ D", Role.PROJECTION) if rank is None else None
    self.query_down = None if rank is None else declare.param((rank, width), "Q D", Role.PROJECTION)
    self.query_norm = None if rank is None else RMSNorm(rank, _LATENT_EPS, declare, axis="Q")
    self.query_up = None if rank is None else declare.param((query_width, rank), "NQ Q", Role.PROJECTION)
    self.query_down_bias = None if rank is None else declare.bias((rank,), "Q", present=spec.bias)
    self.latent = declare.param((latent_width, width), "W D", Role.PROJECTION)
    self.latent_bias = declare.bias((latent_width,), "W", present=spec.bias)
    self.latent_norm = RMSNorm(spec.rank, _LATENT_EPS, declare, axis="R")
    self.key_up = declare.param((spec.heads, spec.key_width, spec.rank), "N H R", Role.EXPANSION)
    self.value_up = declare.param((spec.heads, spec.value_width, spec.rank), "N U R", Role.EXPANSION)
    self.output = declare.param((width, spec.heads * spec.value_width), "D NU", Role.PROJECTION)
    self.output_bias = declare.bias((width,), "D", present=spec.bias)

  def project_in(self, x_TD: Float[Array, "T D"], norm: Norm, used: Int32[Array, ""] | None = None) -> Projected:
    """Queries and latents of normed rows."""
    if self.query is not None:
      query, latent = normed_matmuls(x_TD, norm, (self.query, self.latent), (None, self.latent_bias), used=used)
      return query, latent
    assert self.query_down is not None
    assert self.query_up is not None
    assert self.query_norm is not None
    weights, biases = (self.query_down, self.latent), (self.query_down_bias, self.latent_bias)
    down, latent = normed_matmuls(x_TD, norm, weights, biases, used=used)
    return normed_matmul(down, self.query_norm, self.query_up, used=used), latent

  def attend_prompts(
    self, projected: Projected, rotation: Rotation, positions_BL: Int[Array, "B L"], lengths_B: Int[Array, "B"]
  ) -> tuple[Float[Array, "T NU"], LatentCache]:
    """Rows of L positions attend to themselves, causally, with latents expanded to every head's keys and values."""
    spec, (b, length) = self.spec, positions_BL.shape
    content, rotated, entry = self._in_position(projected, rotation, (b, length))
    weights = [expansion[...].reshape(-1, spec.rank) for expansion in (self.key_up, self.value_up)]
    key, value = (
      x.reshape(b, length, spec.heads, -1) for x in row_matmuls(entry[..., : spec.rank].reshape(-1, spec.rank), weights)
    )
    rotary_key = jnp.broadcast_to(entry[:, :, None, spec.rank :], (b, length, spec.heads, spec.rope_width))
    query, key = jnp.concatenate([content, rotated], axis=-1), jnp.concatenate([key, rotary_key], axis=-1)
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    attended = causal_attention(query, key, value, lengths_B, None, scale=spec.scale)
    return attended.reshape(b * length, -1), LatentCache(entry)

  def attend_cached(
    self, projected: Projected, rotation: Rotation, cache: LatentCache, positions_B: Int[Array, "B"]
  ) -> tuple[Float[Array, "B NU"], LatentCache]:
    """One position a row is written to the cache, and attends to the latents themselves.

    This is the absorbed form: queries are mapped through the keys' expansion, and the attended latents through the
    values' expansion, so that no cached latent is expanded. The cache's memory is reused.
    """
    spec, rows = self.spec, positions_B.shape[0]
    content, rotated, entry = self._in_position(projected, rotation, (rows, 1))
    latent = append_latents(entry[:, 0], cache.latent, positions_B)
    absorbed = _by_head(content[:, 0], self.key_up[...])
    attended = latent_attention(
      jnp.concatenate([absorbed, rotated[:, 0]], axis=-1), latent, positions_B, value_width=spec.rank, scale=spec.scale
    )
    values = _by_head(attended, self.value_up[...].swapaxes(1, 2))
    return values.reshape(rows, -1), LatentCache(latent)

  def attend_paged(
    self, projected: Projected, rotation: Rotation, cache: LatentCache, rows: PagedRows
  ) -> tuple[Float[Array, "T NU"], LatentCache]:
    """Rows are written to a paged cache, and attend to the latents that their sequences hold up to them."""
    spec, count = self.spec, rows.positions.shape[0]
    content, rotated, entry = self._in_position(projected, rotation, (count, 1))
    latent = append_latents(entry[:, 0], cache.latent, rows.positions, blocks=rows.blocks)
    absorbed = _by_head(content[:, 0], self.key_up[...])
    attended = attend_latent_blocks(
      jnp.concatenate([absorbed, rotated[:, 0]], axis=-1), latent, rows, value_width=spec.rank, scale=spec.scale
    )
    values = _by_head(attended, self.value_up[...].swapaxes(1, 2))
    return values.reshape(count, -1), LatentCache(latent)

  def _in_position(
    self, projected: Projected, rotation: Rotation, shape: tuple[int, int]
  ) -> tuple[Float[Array, "B L N H"], Float[Array, "B L N P"], Float[Array, "B L W"]]:
    """The part of queries that has no position, the part that is rotated, and what is cached."""
    spec = self.spec
    query, latent = projected[0].reshape(*shape, spec.heads, -1), projected[1].reshape(*shape, -1)
    content, query_rotary = jnp.split(query, [spec.key_width], axis=-1)
    latent, key_rotary = jnp.split(latent, [spec.rank], axis=-1)
    rotated = rotate(self._by_halves(query_rotary), *rotation)
    shared = rotate(self._by_halves(key_rotary)[:, :, None], *rotation)[:, :, 0]
    return content, rotated, jnp.concatenate([self.latent_norm(latent), shared], axis=-1)

  def _by_halves(self, x: Float[Array, "*rows P"]) -> Float[Array, "*rows P"]:
    """Reorders pairs of neighbours, which these checkpoints rotate, to (x[i], x[i + P/2]); scores stay the same."""
    if not self.spec.neighbours:
      return x
    return x.reshape(*x.shape[:-1], -1, 2).swapaxes(-1, -2).reshape(x.shape)

  def project_out(
    self,
    attended_TX: Float[Array, "T NU"],
    residual_TD: Float[Array, "T D"] | None,
    used: Int32[Array, ""] | None = None,
  ) -> Float[Array, "T D"]:
    """The heads' results mapped back to the model width, and added to the residual stream where one is given."""
    bias = array_of(self.output_bias)
    return row_matmul(attended_TX, weight(self.output), bias=bias, residual_TO=residual_TD, used=used)


def _by_head(x_BNI: Float[Array, "B N I"], weight_NIO: Float[Array, "N I O"]) -> Float[Array, "B N O"]:
  """Each head's rows times its own weight; heads first, as the CPU's bfloat16 products into float32 want them."""
  y_NBO = jnp.einsum("nbi,nio->nbo", x_BNI.swapaxes(0, 1), weight_NIO, preferred_element_type=jnp.float32)
  return y_NBO.swapaxes(0, 1).astype(x_BNI.dtype)
