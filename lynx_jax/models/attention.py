"""Grouped-query attention: its spec, its kind of cache, its projections, and how it attends."""

import dataclasses
from typing import Any, Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Int32
from numpy.typing import DTypeLike

from lynx_jax.models.causal_attention import causal_attention
from lynx_jax.models.declare import Declare
from lynx_jax.models.linear import array_of, normed_matmuls, weight
from lynx_jax.models.norms import Norm, RMSNorm
from lynx_jax.models.paged import PagedRows, attend_blocks
from lynx_jax.models.rope import LongScaling, RopeSpec, Rotary, Rotation
from lynx_jax.placement import Role
from pallas_kernels import append_heads, decode_attention, prompt_heads, row_matmul
from pallas_kernels.block_tables import BLOCK
from pallas_kernels.checks import field_of, number_fields, require, whole_fields

Projected: TypeAlias = tuple[Float[Array, "T NH"], Float[Array, "T GH"], Float[Array, "T GH"]]
"""Queries, keys and values, heads side by side: before their own norms and positions."""


class KeyValueCache(NamedTuple):
  """One layer's keys and values; heads before positions, so that attention reads each head's rows in one run."""

  key: Float[Array, "B G C H"]
  value: Float[Array, "B G C H"]

  def with_room(self, positions: int) -> "KeyValueCache":
    """The same cache with room for that many positions, zeros behind those it has."""
    room = [(0, 0), (0, 0), (0, positions - self.key.shape[2]), (0, 0)]
    return KeyValueCache(jnp.pad(self.key, room), jnp.pad(self.value, room))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeyValueSpec:
  """The kind of cache that grouped-query attention fills.

  Attributes:
    heads: key/value heads (G).
    width: numbers of one head's key, and of its value (H).
    window: positions that a query sees, or None for all before it.
    dtype: of the numbers.
  """

  heads: int
  width: int
  window: int | None
  dtype: np.dtype

  @property
  def numbers_per_position(self) -> int:
    """Keys and values of one position."""
    return 2 * self.heads * self.width

  @property
  def bytes_per_position(self) -> int:
    """Bytes that one position takes."""
    return self.numbers_per_position * self.dtype.itemsize

  def allocate(self, rows: int, positions: int) -> KeyValueCache:
    """An empty cache for `rows` rows of that many positions."""
    shape = (rows, self.heads, positions, self.width)
    return KeyValueCache(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))

  def allocate_blocks(self, blocks: int) -> KeyValueCache:
    """An empty paged cache: a pool of that many blocks."""
    return self.allocate(blocks, BLOCK)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QueryGrowth:
  """Growth of queries with their position: times 1 + gain * log(1 + floor((position + 1) / floor)), arXiv 2501.19399.

  Attributes:
    gain: multiplies the logarithm.
    floor: positions over which the growth stays constant.
  """

  gain: float
  floor: float

  def __post_init__(self) -> None:
    number_fields(self, "floor", above=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
  """Grouped-query attention.

  Attributes:
    heads: query heads (N).
    kv_heads: key and value heads (G), a divisor of `heads`.
    head_dim: width of one head (H), even; not always `width / heads`.
    rope: the rotary embedding of queries and keys, or None where the layer has no positions.
    qk_norm: RMS norm of queries and keys: none, per head (Qwen3), over the whole projection (OLMoE), or per head
      without a learned scale (`l2`, Llama 4).
    qkv_bias: whether the projections to queries, keys and values carry biases.
    output_bias: whether the projection back to the model width carries one.
    clip: bound on the magnitude of projected queries, keys and values, or None.
    window: positions a query sees, itself included, or None for all before it.
    chunk: a query sees its own chunk of that many positions up to itself; None for no chunks.
    scale: multiplies the scores; None is 1 / sqrt(head_dim).
    sinks: whether each head has a learned logit that takes part in its softmax and adds no value.
    query_growth: how queries grow with their position, or None.
  """

  heads: int
  kv_heads: int
  head_dim: int
  rope: RopeSpec | None
  qk_norm: Literal["none", "head", "projection", "l2"] = "none"
  qkv_bias: bool = False
  output_bias: bool = False
  clip: float | None = None
  window: int | None = None
  chunk: int | None = None
  scale: float | None = None
  sinks: bool = False
  query_growth: QueryGrowth | None = None

  def __post_init__(self) -> None:
    whole_fields(self, "heads", "kv_heads", "head_dim", least=1)
    for field in ("window", "chunk"):
      if getattr(self, field) is not None:
        whole_fields(self, field, least=1)
    if self.clip is not None:
      number_fields(self, "clip", above=0)
    divides = self.heads % self.kv_heads == 0
    require(divides, field_of(self, "kv_heads"), self.kv_heads, f"a divisor of heads {self.heads}")
    even = self.head_dim % 2 == 0
    require(even, field_of(self, "head_dim"), self.head_dim, "an even number", "a rotation needs pairs")
    one = self.window is None or self.chunk is None
    require(one, field_of(self, "chunk"), self.chunk, f"None beside a window of {self.window}")
    if self.rope is not None and isinstance(self.rope.scaling, LongScaling):
      self.rope.scaling.check_pairs(self.head_dim // 2)

  @property
  def rotary(self) -> Rotary:
    """The kind of rotation that the layer's heads need."""
    return Rotary(self.head_dim, self.rope)

  def cache_spec(self, dtype: DTypeLike) -> KeyValueSpec:
    """The kind of cache that the layer fills, of numbers of `dtype`."""
    return KeyValueSpec(heads=self.kv_heads, width=self.head_dim, window=self.window, dtype=np.dtype(dtype))

  def build(self, width: int, eps: float, declare: Declare) -> "Attention":
    """The layer's projections, in a model of that width whose norms add `eps`."""
    return Attention(width, self, eps, declare)

  def describe(self) -> str:
    """The sizes in words."""
    parts = [f"{self.heads} heads of {self.head_dim} over {self.kv_heads} key/value heads"]
    if self.qk_norm != "none":
      parts.append(f"query/key norm per {self.qk_norm}")
    if self.window is not None:
      parts.append(f"window {self.window}")
    return ", ".join(parts)


class Attention(nnx.Module):
  """Projections of one layer: query [N*H, D], key and value [G*H, D], output [D, N*H]; sinks [N]."""

  def __init__(self, width: int, spec: AttentionSpec, eps: float, declare: Declare):
    query_width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    self.spec = spec
    self.eps = eps
    self.query = declare.param((query_width, width), "NH D", Role.PROJECTION)
    self.key = declare.param((kv_width, width), "GH D", Role.PROJECTION)
    self.value = declare.param((kv_width, width), "GH D", Role.PROJECTION)
    self.output = declare.param((width, query_width), "D NH", Role.PROJECTION)
    self.query_bias = declare.bias((query_width,), "NH", present=spec.qkv_bias)
    self.key_bias = declare.bias((kv_width,), "GH", present=spec.qkv_bias)
    self.value_bias = declare.bias((kv_width,), "GH", present=spec.qkv_bias)
    self.output_bias = declare.bias((width,), "D", present=spec.output_bias)
    self.sinks = declare.bias((spec.heads,), "N", present=spec.sinks)
    axes = {"head": ((spec.head_dim, "H"), (spec.head_dim, "H")), "projection": ((query_width, "NH"), (kv_width, "GH"))}
    query, key = axes.get(spec.qk_norm, (None, None))
    self.query_norm = None if query is None else RMSNorm(query[0], eps, declare, axis=query[1])
    self.key_norm = None if key is None else RMSNorm(key[0], eps, declare, axis=key[1])

  def project_in(self, x_TD: Float[Array, "T D"], norm: Norm, used: Int32[Array, ""] | None = None) -> Projected:
    """Queries, keys and values of normed rows, heads side by side: before their own norms and positions."""
    weights, biases = (self.query, self.key, self.value), (self.query_bias, self.key_bias, self.value_bias)
    query, key, value = normed_matmuls(x_TD, norm, weights, biases, used=used)
    return query, key, value

  def _norms(self) -> dict[str, Any]:
    """What the ops between projections and attention are told of this layer's norms and clip.

    Llama 4 applies its `l2` norm after the rotation. A rotation preserves norms, so we apply it before.
    """
    spec = self.spec
    query = key = None
    if spec.qk_norm == "l2":
      query = key = jnp.ones((spec.head_dim,), jnp.float32)
    elif self.query_norm is not None and self.key_norm is not None:
      query, key = self.query_norm.scale[...], self.key_norm.scale[...]
    over = "projection" if spec.qk_norm == "projection" else "head"
    return {"query_norm": query, "key_norm": key, "normed_over": over, "norm_eps": self.eps, "clip": spec.clip}

  def attend_prompts(
    self,
    projected: Projected,
    rotation: Rotation,
    positions_BL: Int[Array, "B L"],
    lengths_B: Int[Array, "B"],
  ) -> tuple[Float[Array, "T NH"], KeyValueCache]:
    """Rows of L positions attend to themselves, causally; returns the heads' results, and a cache of L positions."""
    spec = self.spec
    query, key, value = prompt_heads(*projected, *rotation, **self._norms())
    query = _grown(query, positions_BL[:, None], spec.query_growth)
    attended = causal_attention(
      query, key, value, lengths_B, spec.window, chunk=spec.chunk, scale=spec.scale, sinks=array_of(self.sinks)
    )
    return attended.reshape(positions_BL.size, -1), KeyValueCache(key, value)

  def attend_cached(
    self, projected: Projected, rotation: Rotation, cache: KeyValueCache, positions_B: Int[Array, "B"]
  ) -> tuple[Float[Array, "B NH"], KeyValueCache]:
    """One position a row is written to the cache and attends to all up to it; the cache's memory is reused."""
    spec = self.spec
    query, key, value = append_heads(
      *projected,
      *cache,
      positions_B,
      rotation.cos[:, 0],
      rotation.sin[:, 0],
      **self._norms(),
    )
    query = _grown(query, positions_B[:, None], spec.query_growth)
    attended = decode_attention(
      query, key, value, positions_B,
      window=spec.window, chunk=spec.chunk, scale=spec.scale, sinks=array_of(self.sinks),
    )  # fmt: skip
    return attended.reshape(positions_B.shape[0], -1), KeyValueCache(key, value)

  def attend_paged(
    self, projected: Projected, rotation: Rotation, cache: KeyValueCache, rows: PagedRows
  ) -> tuple[Float[Array, "T NH"], KeyValueCache]:
    """Rows are written to a paged cache, and attend to what their sequences hold up to them."""
    spec = self.spec
    query, key, value = append_heads(
      *projected,
      *cache,
      rows.positions,
      rotation.cos[:, 0],
      rotation.sin[:, 0],
      blocks=rows.blocks,
      **self._norms(),
    )
    query = _grown(query, rows.positions[:, None], spec.query_growth)
    attended = attend_blocks(
      query, key, value, rows, window=spec.window, chunk=spec.chunk, scale=spec.scale, sinks=array_of(self.sinks)
    )
    return attended.reshape(attended.shape[0], -1), KeyValueCache(key, value)

  def project_out(
    self,
    attended_TX: Float[Array, "T NH"],
    residual_TD: Float[Array, "T D"] | None,
    used: Int32[Array, ""] | None = None,
  ) -> Float[Array, "T D"]:
    """The heads' results mapped back to the model width, and added to the residual stream where one is given."""
    bias = array_of(self.output_bias)
    return row_matmul(attended_TX, weight(self.output), bias=bias, residual_TO=residual_TD, used=used)


def _grown(
  query: Float[Array, "*rows H"], positions: Int[Array, "*#rows"], growth: QueryGrowth | None
) -> Float[Array, "*rows H"]:
  """Queries scaled by the logarithm of their positions (arXiv 2501.19399)."""
  if growth is None:
    return query
  steps = jnp.floor((positions.astype(jnp.float32) + 1.0) / growth.floor)
  factor = 1.0 + growth.gain * jnp.log1p(steps)
  return (query.astype(jnp.float32) * factor[..., None]).astype(query.dtype)
