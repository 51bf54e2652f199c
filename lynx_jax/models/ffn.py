"""What follows attention in a layer: one SwiGLU network, or a router and its experts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int32

from lynx_jax.models.linear import normal
from lynx_jax.models.norms import RMSNorm
from lynx_jax.models.spec import DenseSpec, MoESpec
from lynx_jax.routing import Routing
from lynx_jax.routing.select import Route, route_to_tiles
from pallas_kernels import capacity_ffn, expert_ffn, row_matmul


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
    norm: RMSNorm,
    valid_T: Bool[Array, "T"],
    *,
    route: Route,
    capacity: int | None = None,
  ) -> tuple[Float[Array, "T D"], None]:
    """The network's output for normed rows, in `x`'s dtype; there is nothing to route."""
    weight, scale = self.gate_up[...], norm.scale[...]
    gate_up = row_matmul(x_TD, weight, norm_scale=scale, norm_eps=norm.eps, dtype="float32")
    gate, up = jnp.split(gate_up, 2, axis=-1)
    return row_matmul((jax.nn.silu(gate) * up).astype(x_TD.dtype), self.down[...]), None


class MoE(nnx.Module):
  """A router [E, D], perhaps with a selection bias [E], and its experts: gate_up [E, 2F, D] (gate rows first), down."""

  def __init__(self, width: int, spec: MoESpec, *, rngs: nnx.Rngs, dtype: jnp.dtype):
    self.spec = spec
    self.router = normal(rngs, (spec.experts, width), dtype)
    # float32 whatever the model's dtype: the last bits of a bias of many nats decide between experts.
    self.selection_bias = nnx.Param(jnp.zeros((spec.experts,), jnp.float32)) if spec.selection_bias else None
    self.gate_up = normal(rngs, (spec.experts, 2 * spec.expert_width, width), dtype)
    self.down = normal(rngs, (spec.experts, width, spec.expert_width), dtype)

  def __call__(
    self,
    x_TD: Float[Array, "T D"],
    norm: RMSNorm,
    valid_T: Bool[Array, "T"],
    *,
    route: Route = route_to_tiles,
    capacity: int | None = None,
  ) -> tuple[Float[Array, "T D"], ExpertTrace]:
    """Norms the rows, routes the valid ones and runs their experts; invalid rows give zeros.

    `capacity` is for training: each expert takes at most that many assignments, in one batched product, and the
    rest are dropped and counted. None computes every assignment.
    """
    spec = self.spec
    with jax.named_scope("router"):
      scale = norm.scale[...]
      logits = row_matmul(x_TD, self.router[...], norm_scale=scale, norm_eps=norm.eps, dtype="float32")
      bias = None if self.selection_bias is None else self.selection_bias[...].astype(jnp.float32)
      routing, tiles = route(logits, spec.top_k, router=spec.router, valid=valid_T, selection_bias=bias)
    with jax.named_scope("experts"):
      experts, x_TD = (self.gate_up[...], self.down[...]), norm(x_TD)
      if capacity is None:
        y = expert_ffn(x_TD, routing.ids, routing.weights, *experts, valid=valid_T, tiles=tiles)
        dropped = jnp.zeros((), jnp.int32)
      else:
        y, dropped = capacity_ffn(x_TD, routing.ids, routing.weights, *experts, capacity)
    return y, ExpertTrace(logits, routing, dropped, bias)
