"""What follows attention in a layer: one SwiGLU network, or a router and its experts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int32

from lynx_jax.models.linear import bias, normal, normed_matmul, value, weight
from lynx_jax.models.norms import Norm
from lynx_jax.models.spec import DenseSpec, MoESpec
from lynx_jax.routing import Routing
from lynx_jax.routing.select import Route, route_to_tiles
from pallas_kernels import Int8Weight, capacity_ffn, expert_ffn, row_matmul
from pallas_kernels.activations import SWIGLU
from pallas_kernels.expert_ffn import Tiles


class ExpertTrace(NamedTuple):
  """What one MoE layer decided, and from what.

  Attributes:
    logits: the router's.
    routing: which experts each row runs.
    dropped: assignments dropped for lack of capacity.
    selection_bias: what is added to the gates for the choice, where the layer has it.
  """

  logits: Float32[Array, "T E"]
  routing: Routing
  dropped: Int32[Array, ""]
  selection_bias: Float32[Array, "E"] | None = None


class Dense(nnx.Module):
  """SwiGLU (arXiv 2002.05202): gate_up [2F, D] (gate rows first), down [D, F]."""

  def __init__(self, width: int, spec: DenseSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype):
    self.gate_up = normal(rngs, (2 * spec.width, width), dtype)
    self.down = normal(rngs, (width, spec.width), dtype)

  def __call__(
    self,
    x_TD: Float[Array, "T D"],
    norm: Norm,
    valid_T: Bool[Array, "T"],
    *,
    route: Route,
    capacity: int | None = None,
  ) -> tuple[Float[Array, "T D"], None]:
    """The network's output for normed rows, in `x`'s dtype; there is nothing to route."""
    gate, up = jnp.split(normed_matmul(x_TD, norm, self.gate_up, dtype="float32"), 2, axis=-1)
    return row_matmul(SWIGLU(gate, up).astype(x_TD.dtype), weight(self.down)), None


class MoE(nnx.Module):
  """A router [E, D] and its experts, stacked: gate_up [E, 2F, D] (gate rows first), down [E, D, F].

  Biases, where there are: router_bias [E] of logits, selection_bias [E] of gates, for the choice alone, gate_up_bias
  [E, 2F], down_bias [E, D]. `shared` is a `Dense` that every
  row runs beside its experts, `shared_gate` [1, D] what its share is computed from.
  """

  def __init__(self, width: int, spec: MoESpec, *, rngs: nnx.Rngs, dtype: jnp.dtype):
    self.spec = spec
    self.router = normal(rngs, (spec.experts, width), dtype)
    # float32 whatever the model's dtype: the last bits of a bias of many nats decide between experts.
    self.selection_bias = nnx.Param(jnp.zeros((spec.experts,), jnp.float32)) if spec.selection_bias else None
    self.router_bias = bias(spec.experts, dtype=dtype, where=spec.router_bias)
    self.gate_up = normal(rngs, (spec.experts, 2 * spec.expert_width, width), dtype)
    self.gate_up_bias = bias(spec.experts, 2 * spec.expert_width, dtype=dtype, where=spec.bias)
    self.down = normal(rngs, (spec.experts, width, spec.expert_width), dtype)
    self.down_bias = bias(spec.experts, width, dtype=dtype, where=spec.bias)
    self.shared = None if spec.shared is None else Dense(width, spec.shared, rngs=rngs, dtype=dtype)
    self.shared_gate = normal(rngs, (1, width), dtype) if spec.shared_gate else None

  def __call__(
    self,
    x_TD: Float[Array, "T D"],
    norm: Norm,
    valid_T: Bool[Array, "T"],
    *,
    route: Route = route_to_tiles,
    capacity: int | None = None,
  ) -> tuple[Float[Array, "T D"], ExpertTrace]:
    """Norms the rows, routes the valid ones and runs their experts; experts give invalid rows zeros.

    `capacity` is for training: each expert takes at most that many assignments, in one batched product, and the
    rest are dropped and counted. None computes every assignment.
    """
    spec = self.spec
    with jax.named_scope("router"):
      logits = normed_matmul(x_TD, norm, self.router, self.router_bias, dtype="float32")
      choice = None if self.selection_bias is None else self.selection_bias[...].astype(jnp.float32)
      routing, tiles = route(logits, spec.top_k, router=spec.router, valid=valid_T, selection_bias=choice)
    with jax.named_scope("experts"):
      y, dropped = self._experts(norm(x_TD), routing, valid_T, tiles, capacity)
    if self.shared is not None:
      with jax.named_scope("shared"):
        y = y + self._shared(self.shared, x_TD, norm, valid_T, route)
    return y, ExpertTrace(logits, routing, dropped, choice)

  def _experts(
    self, x_TD: jax.Array, routing: Routing, valid_T: jax.Array, tiles: Tiles | None, capacity: int | None
  ) -> tuple[jax.Array, jax.Array]:
    """The weighted sum of each row's experts, and how many assignments were dropped."""
    ids, weights = routing.ids, routing.weights
    rows, top_k = ids.shape
    if self.spec.scale_input:
      # Each assignment becomes a row of its own, whose place among the tiles stays what it was.
      x_TD = (x_TD[:, None, :] * weights[:, :, None].astype(x_TD.dtype)).reshape(rows * top_k, -1)
      ids, weights = ids.reshape(-1, 1), jnp.ones((rows * top_k, 1), jnp.float32)
      valid_T = jnp.repeat(valid_T, top_k)
    more = {
      "gate_up_bias": value(self.gate_up_bias),
      "down_bias": value(self.down_bias),
      "activation": self.spec.activation,
    }
    gate_up, down, dropped = weight(self.gate_up), weight(self.down), jnp.zeros((), jnp.int32)
    if capacity is None:
      y = expert_ffn(x_TD, ids, weights, gate_up, down, valid=valid_T, tiles=tiles, **more)
    elif isinstance(gate_up, Int8Weight) or isinstance(down, Int8Weight):
      raise ValueError("int8 experts cannot be trained: load them without weights='int8'")
    else:
      y, dropped = capacity_ffn(x_TD, ids, weights, gate_up, down, capacity, **more)
    return y.reshape(rows, top_k, -1).sum(axis=1) if self.spec.scale_input else y, dropped

  def _shared(self, shared: Dense, x_TD: jax.Array, norm: Norm, valid_T: jax.Array, route: Route) -> jax.Array:
    y, _ = shared(x_TD, norm, valid_T, route=route)
    if self.shared_gate is None:
      return y
    share = jax.nn.sigmoid(normed_matmul(x_TD, norm, self.shared_gate, dtype="float32"))
    return (y.astype(jnp.float32) * share).astype(y.dtype)
