"""Grouped-query attention: the projections (a module), and how whole prompts attend (a pure function)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from lynx_jax.models.linear import bias, normal, normed_matmuls, weight
from lynx_jax.models.linear import value as _array
from lynx_jax.models.norms import Norm, RMSNorm
from lynx_jax.models.rope import rotary_turn
from lynx_jax.models.spec import AttentionSpec, Temperature
from pallas_kernels import append_heads, decode_attention, prompt_heads, row_matmul

# Queries of a long prompt are taken in blocks, so that scores need [B, N, block, L] and not [B, N, L, L].
_QUERY_BLOCK = 512


class KeyValueCache(NamedTuple):
  """One layer's keys and values; heads before positions, so that attention reads each head's rows in one run."""

  key: Float[Array, "B G C H"]
  value: Float[Array, "B G C H"]


class Attention(nnx.Module):
  """Projections of one layer: query [N*H, D], key and value [G*H, D], output [D, N*H]; sinks [N]."""

  def __init__(self, width: int, spec: AttentionSpec, eps: float, *, rngs: nnx.Rngs, dtype: jnp.dtype):
    query_width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    self.spec = spec
    self.eps = eps
    self.query = normal(rngs, (query_width, width), dtype)
    self.key = normal(rngs, (kv_width, width), dtype)
    self.value = normal(rngs, (kv_width, width), dtype)
    self.output = normal(rngs, (width, query_width), dtype)
    self.query_bias = bias(query_width, dtype=dtype, where=spec.qkv_bias)
    self.key_bias, self.value_bias = (bias(kv_width, dtype=dtype, where=spec.qkv_bias) for _ in range(2))
    self.output_bias = bias(width, dtype=dtype, where=spec.output_bias)
    self.sinks = bias(spec.heads, dtype=dtype, where=spec.sinks)
    norms = {"head": (spec.head_dim, spec.head_dim), "projection": (query_width, kv_width)}.get(spec.qk_norm)
    self.query_norm = None if norms is None else RMSNorm(norms[0], eps, dtype=dtype)
    self.key_norm = None if norms is None else RMSNorm(norms[1], eps, dtype=dtype)

  def project_in(
    self, x_TD: Float[Array, "T D"], norm: Norm
  ) -> tuple[Float[Array, "T NH"], Float[Array, "T GH"], Float[Array, "T GH"]]:
    """Queries, keys and values of normed rows, heads side by side: before their own norms and positions."""
    weights, biases = (self.query, self.key, self.value), (self.query_bias, self.key_bias, self.value_bias)
    query, key, value = normed_matmuls(x_TD, norm, weights, biases)
    return query, key, value

  def _norms(self) -> tuple[jax.Array | None, jax.Array | None]:
    """Scales of the norms of queries and keys. Turning keeps a head's norm, so that `l2` may come before it as well."""
    if self.spec.qk_norm == "l2":
      ones = jnp.ones((self.spec.head_dim,), jnp.float32)
      return ones, ones
    if self.query_norm is None or self.key_norm is None:
      return None, None
    return self.query_norm.scale[...], self.key_norm.scale[...]

  def attend_prompts(
    self, projected: tuple[jax.Array, jax.Array, jax.Array], positions_BL: Int[Array, "B L"], lengths_B: Int[Array, "B"]
  ) -> tuple[Float[Array, "T NH"], KeyValueCache]:
    """Rows of L positions attend to themselves, causally; returns the heads' results, and a cache of L positions."""
    spec = self.spec
    turn = rotary_turn(positions_BL, lengths_B, spec.head_dim, spec.rope)
    query_norm, key_norm = self._norms()
    query, key, value = prompt_heads(
      *projected, *turn, query_norm=query_norm, key_norm=key_norm, norm_eps=self.eps, clip=spec.clip
    )
    query = _warmed(query, positions_BL[:, None], spec.temperature)
    mixed = causal_attention(
      query, key, value, lengths_B, spec.window, chunk=spec.chunk, scale=spec.scale, sinks=_array(self.sinks)
    )
    return mixed.reshape(positions_BL.size, -1), KeyValueCache(key, value)

  def attend_cached(
    self, projected: tuple[jax.Array, jax.Array, jax.Array], cache: KeyValueCache, positions_B: Int[Array, "B"]
  ) -> tuple[Float[Array, "B NH"], KeyValueCache]:
    """One position a row is written to the cache and attends to all up to it; the cache's memory is taken over."""
    spec = self.spec
    turn = rotary_turn(positions_B[:, None], positions_B + 1, spec.head_dim, spec.rope)
    query_norm, key_norm = self._norms()
    query, key, value = append_heads(
      *projected,
      *cache,
      positions_B,
      turn.cos[:, 0],
      turn.sin[:, 0],
      query_norm=query_norm,
      key_norm=key_norm,
      norm_eps=self.eps,
      clip=spec.clip,
    )
    query = _warmed(query, positions_B[:, None], spec.temperature)
    mixed = decode_attention(
      query, key, value, positions_B,
      window=spec.window, chunk=spec.chunk, scale=spec.scale, sinks=_array(self.sinks),
    )  # fmt: skip
    return mixed.reshape(positions_B.shape[0], -1), KeyValueCache(key, value)

  def project_out(self, mixed_TX: Float[Array, "T NH"], residual_TD: Float[Array, "T D"] | None) -> Float[Array, "T D"]:
    """The heads' results mapped back to the model width, and added to the residual stream where one is given."""
    return row_matmul(mixed_TX, weight(self.output), bias=_array(self.output_bias), residual_TO=residual_TD)


def _warmed(
  query: Float[Array, "*rows H"], positions: Int[Array, "*#rows"], temperature: Temperature | None
) -> Float[Array, "*rows H"]:
  """Queries scaled by the logarithm of their positions (arXiv 2501.19399)."""
  if temperature is None:
    return query
  steps = jnp.floor((positions.astype(jnp.float32) + 1.0) / temperature.floor)
  growth = 1.0 + temperature.gain * jnp.log1p(steps)
  return (query.astype(jnp.float32) * growth[..., None]).astype(query.dtype)


def _attend(
  query_BGRLH: Float[Array, "B G R L H"],
  key_BGCH: Float[Array, "B G C H"],
  value_BGCU: Float[Array, "B G C U"],
  visible_BLC: Bool[Array, "B L C"],
  scale: float | None,
  sinks_N: Float[Array, "N"] | None,
) -> Float[Array, "B L N U"]:
  """Scaled dot-product attention; scores and softmax in float32. A query that sees nothing gets finite values.

  Rows and groups are one batch axis Z, the queries of a group one axis M: the CPU's bfloat16 products into float32
  refuse two batch axes (jax 0.10.2, "Unsupported element type for DotThunk").
  """
  b, groups, rest, length, width = query_BGRLH.shape
  capacity = key_BGCH.shape[2]
  query_ZMH = query_BGRLH.reshape(b * groups, rest * length, width)
  key_ZCH, value_ZCU = (x.reshape(b * groups, capacity, -1) for x in (key_BGCH, value_BGCU))
  scores_ZMC = jnp.einsum("zmh,zch->zmc", query_ZMH, key_ZCH, preferred_element_type=jnp.float32)
  scores: Float32[Array, "B G R L C"] = scores_ZMC.reshape(b, groups, rest, length, capacity)
  scores = jnp.where(visible_BLC[:, None, None], scores * (scale or width**-0.5), jnp.finfo(jnp.float32).min)
  if sinks_N is not None:
    sinks = sinks_N.astype(jnp.float32).reshape(1, groups, rest, 1, 1)
    scores = jnp.concatenate([scores, jnp.broadcast_to(sinks, (*scores.shape[:-1], 1))], axis=-1)
  share = jax.nn.softmax(scores, axis=-1)[..., :capacity]
  share_ZMC = share.astype(value_BGCU.dtype).reshape(scores_ZMC.shape)
  mixed_ZMU = jnp.einsum("zmc,zcu->zmu", share_ZMC, value_ZCU, preferred_element_type=jnp.float32)
  mixed = mixed_ZMU.reshape(b, groups, rest, length, -1).transpose(0, 3, 1, 2, 4)
  return mixed.reshape(b, length, groups * rest, -1).astype(query_BGRLH.dtype)


def causal_attention(
  query_BNLH: Float[Array, "B N L H"],
  key_BGLH: Float[Array, "B G L H"],
  value_BGLU: Float[Array, "B G L U"],
  lengths_B: Int[Array, "B"],
  window: int | None,
  *,
  chunk: int | None = None,
  scale: float | None = None,
  sinks: Float[Array, "N"] | None = None,
) -> Float[Array, "B L N U"]:
  """Each position attends to itself and those before it, inside its row's length, the window and its chunk.

  `chunk`, `scale` and `sinks` as for `decode_attention`.
  """
  b, heads, length, width = query_BNLH.shape
  groups = key_BGLH.shape[1]
  query = query_BNLH.reshape(b, groups, heads // groups, length, width)
  keys_at = jnp.arange(length)

  def block(query_block: jax.Array, queries_at: jax.Array) -> jax.Array:
    visible = keys_at[None, :] <= queries_at[:, None]
    if window is not None:
      visible &= keys_at[None, :] > queries_at[:, None] - window
    if chunk is not None:
      visible &= keys_at[None, :] // chunk == queries_at[:, None] // chunk
    visible = visible[None] & (keys_at[None, :] < lengths_B[:, None])[:, None, :]
    return _attend(query_block, key_BGLH, value_BGLU, visible, scale, sinks)

  if length <= _QUERY_BLOCK or length % _QUERY_BLOCK:
    return block(query, keys_at)
  blocks = jnp.moveaxis(query.reshape(*query.shape[:3], -1, _QUERY_BLOCK, width), 3, 0)
  mixed = jax.lax.map(lambda inputs: block(*inputs), (blocks, keys_at.reshape(-1, _QUERY_BLOCK)))
  return mixed.swapaxes(0, 1).reshape(b, length, heads, -1)
