"""Grouped-query attention: the projections (a module), and how whole prompts attend (a pure function)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from lynx_jax.models.linear import normal
from lynx_jax.models.norms import RMSNorm
from lynx_jax.models.rope import rotary_angles
from lynx_jax.models.spec import AttentionSpec
from pallas_kernels import append_heads, decode_attention, row_matmul, row_matmuls
from pallas_kernels.append_heads.reference import split_heads
from pallas_kernels.rotary import rotate

# Queries of a long prompt are taken in blocks, so that scores need [B, N, block, L] and not [B, N, L, L].
_QUERY_BLOCK = 512


class KeyValueCache(NamedTuple):
  """One layer's keys and values; heads before positions, so that attention reads each head's rows in one run."""

  key: Float[Array, "B G C H"]
  value: Float[Array, "B G C H"]


class Attention(nnx.Module):
  """Projections of one layer: query [N*H, D], key and value [G*H, D], output [D, N*H]."""

  def __init__(self, width: int, spec: AttentionSpec, eps: float, *, rngs: nnx.Rngs, dtype: jnp.dtype):
    query_width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    self.spec = spec
    self.query = normal(rngs, (query_width, width), dtype)
    self.key = normal(rngs, (kv_width, width), dtype)
    self.value = normal(rngs, (kv_width, width), dtype)
    self.output = normal(rngs, (width, query_width), dtype)

    def bias(size: int) -> nnx.Param | None:
      return nnx.Param(jnp.zeros((size,), dtype)) if spec.bias else None

    self.query_bias, self.key_bias = bias(query_width), bias(kv_width)
    self.value_bias, self.output_bias = bias(kv_width), bias(width)
    widths = {"none": None, "head": (spec.head_dim, spec.head_dim), "projection": (query_width, kv_width)}
    norms = widths[spec.qk_norm]
    self.query_norm = None if norms is None else RMSNorm(norms[0], eps, dtype=dtype)
    self.key_norm = None if norms is None else RMSNorm(norms[1], eps, dtype=dtype)

  def project_in(
    self, x_TD: Float[Array, "T D"], norm: RMSNorm
  ) -> tuple[Float[Array, "T NH"], Float[Array, "T GH"], Float[Array, "T GH"]]:
    """Queries, keys and values of normed rows, heads side by side: before their own norms and positions."""
    query, key, value = row_matmuls(
      x_TD,
      (self.query[...], self.key[...], self.value[...]),
      norm_scale=norm.scale[...],
      norm_eps=norm.eps,
      biases=(_value(self.query_bias), _value(self.key_bias), _value(self.value_bias)),
    )
    return query, key, value

  def heads(
    self, projected: tuple[jax.Array, jax.Array, jax.Array], positions_BL: Int[Array, "B L"]
  ) -> tuple[Float[Array, "B L N H"], Float[Array, "B L G H"], Float[Array, "B L G H"]]:
    """Projected rows by head, normed, clipped and turned by their positions."""
    angles = rotary_angles(positions_BL, self.spec.head_dim, self.spec.rope_theta)
    norms = (self.query_norm, self.key_norm, None)
    query, key, value = (
      split_heads(
        x.reshape(*positions_BL.shape, -1), self.spec.head_dim, _scale(norm), norm.eps if norm else 0.0, self.spec.clip
      )
      for x, norm in zip(projected, norms, strict=True)
    )
    return rotate(query, angles), rotate(key, angles), value

  def attend_prompts(
    self, projected: tuple[jax.Array, jax.Array, jax.Array], positions_BL: Int[Array, "B L"], lengths_B: Int[Array, "B"]
  ) -> tuple[Float[Array, "T NH"], KeyValueCache]:
    """Rows of L positions attend to themselves, causally; returns the heads' results, and a cache of L positions."""
    query, key, value = self.heads(projected, positions_BL)
    mixed = causal_attention(query, key, value, lengths_B, self.spec.window)
    return mixed.reshape(positions_BL.size, -1), KeyValueCache(key.swapaxes(1, 2), value.swapaxes(1, 2))

  def attend_cached(
    self, projected: tuple[jax.Array, jax.Array, jax.Array], cache: KeyValueCache, positions_B: Int[Array, "B"]
  ) -> tuple[Float[Array, "B NH"], KeyValueCache]:
    """One position a row is written to the cache and attends to all up to it; the cache's memory is taken over."""
    spec = self.spec
    angles = rotary_angles(positions_B[:, None], spec.head_dim, spec.rope_theta)[:, 0]
    query, key, value = append_heads(
      *projected,
      *cache,
      positions_B,
      angles,
      query_norm=_scale(self.query_norm),
      key_norm=_scale(self.key_norm),
      norm_eps=self.query_norm.eps if self.query_norm else 0.0,
      clip=spec.clip,
    )
    mixed = decode_attention(query, key, value, positions_B, window=spec.window)
    return mixed.reshape(positions_B.shape[0], -1), KeyValueCache(key, value)

  def project_out(self, mixed_TX: Float[Array, "T NH"], residual_TD: Float[Array, "T D"]) -> Float[Array, "T D"]:
    """The heads' results mapped back to the model width and added to the residual stream."""
    return row_matmul(mixed_TX, self.output[...], bias=_value(self.output_bias), residual_TO=residual_TD)


def _value(param: nnx.Param | None) -> jax.Array | None:
  return None if param is None else param[...]


def _scale(norm: RMSNorm | None) -> jax.Array | None:
  return None if norm is None else norm.scale[...]


def _attend(
  query_BLGRH: Float[Array, "B L G R H"],
  key_BGCH: Float[Array, "B G C H"],
  value_BGCH: Float[Array, "B G C H"],
  visible_BLC: Bool[Array, "B L C"],
) -> Float[Array, "B L N H"]:
  """Scaled dot-product attention; scores and softmax in float32. A query that sees nothing gets finite values.

  Rows and groups are one batch axis Z, the queries of a group one axis M: the CPU's bfloat16 products into float32
  refuse two batch axes (jax 0.10.2, "Unsupported element type for DotThunk").
  """
  b, length, groups, rest, width = query_BLGRH.shape
  capacity = key_BGCH.shape[2]
  query_ZMH = query_BLGRH.transpose(0, 2, 3, 1, 4).reshape(b * groups, rest * length, width)
  key_ZCH, value_ZCH = (x.reshape(b * groups, capacity, width) for x in (key_BGCH, value_BGCH))
  scores_ZMC = jnp.einsum("zmh,zch->zmc", query_ZMH, key_ZCH, preferred_element_type=jnp.float32)
  scores: Float32[Array, "B G R L C"] = scores_ZMC.reshape(b, groups, rest, length, capacity) * width**-0.5
  scores = jnp.where(visible_BLC[:, None, None], scores, jnp.finfo(jnp.float32).min)
  share_ZMC = jax.nn.softmax(scores, axis=-1).astype(value_BGCH.dtype).reshape(scores_ZMC.shape)
  mixed_ZMH = jnp.einsum("zmc,zch->zmh", share_ZMC, value_ZCH, preferred_element_type=jnp.float32)
  mixed = mixed_ZMH.reshape(b, groups, rest, length, width).transpose(0, 3, 1, 2, 4)
  return mixed.reshape(b, length, groups * rest, width).astype(query_BLGRH.dtype)


def causal_attention(
  query_BLNH: Float[Array, "B L N H"],
  key_BLGH: Float[Array, "B L G H"],
  value_BLGH: Float[Array, "B L G H"],
  lengths_B: Int[Array, "B"],
  window: int | None,
) -> Float[Array, "B L N H"]:
  """Each position attends to itself and those before it, inside its row's length and the window."""
  b, length, heads, width = query_BLNH.shape
  groups = key_BLGH.shape[2]
  query = query_BLNH.reshape(b, length, groups, heads // groups, width)
  key, value = key_BLGH.swapaxes(1, 2), value_BLGH.swapaxes(1, 2)
  keys_at = jnp.arange(length)

  def block(query_block: jax.Array, queries_at: jax.Array) -> jax.Array:
    visible = keys_at[None, :] <= queries_at[:, None]
    if window is not None:
      visible &= keys_at[None, :] > queries_at[:, None] - window
    return _attend(query_block, key, value, visible[None] & (keys_at[None, :] < lengths_B[:, None])[:, None, :])

  if length <= _QUERY_BLOCK or length % _QUERY_BLOCK:
    return block(query, keys_at)
  blocks = query.reshape(b, -1, _QUERY_BLOCK, *query.shape[2:]).swapaxes(0, 1)
  mixed = jax.lax.map(lambda inputs: block(*inputs), (blocks, keys_at.reshape(-1, _QUERY_BLOCK)))
  return mixed.swapaxes(0, 1).reshape(query_BLNH.shape)
