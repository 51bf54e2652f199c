"""How whole prompts attend to themselves, in plain JAX."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

# Queries of a long prompt are taken in blocks, so that scores need [B, N, block, L] and not [B, N, L, L].
_QUERY_BLOCK = 512


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
  attended_ZMU = jnp.einsum("zmc,zcu->zmu", share_ZMC, value_ZCU, preferred_element_type=jnp.float32)
  attended = attended_ZMU.reshape(b, groups, rest, length, -1).transpose(0, 3, 1, 2, 4)
  return attended.reshape(b, length, groups * rest, -1).astype(query_BGRLH.dtype)


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
  attended = jax.lax.map(lambda inputs: block(*inputs), (blocks, keys_at.reshape(-1, _QUERY_BLOCK)))
  return attended.swapaxes(0, 1).reshape(b, length, heads, -1)
