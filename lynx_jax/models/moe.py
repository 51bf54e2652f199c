"""The Mixture-of-Experts feed-forward part: its spec, its router and its experts."""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lynx_jax.models.declare import Declare
from lynx_jax.models.dense import Dense, DenseSpec
from lynx_jax.models.linear import array_of, normed_matmul, weight
from lynx_jax.models.norms import Norm
from lynx_jax.models.parts import ExpertChoice, ExpertTrace
from lynx_jax.placement import Role
from lynx_jax.routing import Router, TiledRouting
from pallas_kernels import capacity_ffn, expert_ffn
from pallas_kernels.activations import SWIGLU, Activation
from pallas_kernels.checks import field_of, require, whole_fields
from pallas_kernels.weights.base import held_as


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MoESpec:
  """A layer of experts (E of width F, K a token) behind a router.

  Attributes:
    experts: how many (E).
    top_k: experts of a token under the model's own rule (K).
    expert_width: hidden values of one expert (F).
    router: how the router's logits become a token's experts and their weights.
    router_bias: whether the router adds a bias to its logits.
    selection_bias: whether a bias [E] is added to a sigmoid router's gates for the choice of experts.
    bias: whether both products of an expert carry biases.
    activation: between an expert's two products.
    scale_input: whether a routing weight multiplies its expert's input (Llama 4) rather than its output.
    shared: a network that every token runs beside its experts, whatever routing decides; None for none.
    shared_gate: whether the sigmoid of a learned projection scales the shared network's result.
  """

  experts: int
  top_k: int
  expert_width: int
  router: Router = dataclasses.field(default_factory=Router)
  router_bias: bool = False
  selection_bias: bool = False
  bias: bool = False
  activation: Activation = SWIGLU
  scale_input: bool = False
  shared: DenseSpec | None = None
  shared_gate: bool = False

  def __post_init__(self) -> None:
    whole_fields(self, "experts", "top_k", "expert_width", least=1)
    require(self.top_k <= self.experts, field_of(self, "top_k"), self.top_k, f"at most experts {self.experts}")
    self.router.check_sizes(self.experts, self.top_k)
    biased = not self.selection_bias or self.router.scoring == "sigmoid"
    where = field_of(self, "selection_bias")
    require(biased, where, self.selection_bias, "False", f"only sigmoid routers have one, not {self.router}")
    gated = self.shared is not None or not self.shared_gate
    require(gated, field_of(self, "shared_gate"), self.shared_gate, "False where there is no shared network")

  def build(self, width: int, declare: Declare) -> "MoE":
    """The router and the experts, in a model of that width."""
    return MoE(width, self, declare)


class MoE(nnx.Module):
  """A router [E, D] and its experts, stacked: gate_up [E, 2F, D] (gate rows first), down [E, D, F].

  Where the spec asks for them there are also `router_bias` [E], added to logits; `selection_bias` [E], added to gates
  for the choice alone; `gate_up_bias` [E, 2F] and `down_bias` [E, D]; `shared`, a `Dense` that every row runs beside
  its experts; and `shared_gate` [1, D], whose product scales the shared network's output.
  """

  def __init__(self, width: int, spec: MoESpec, declare: Declare):
    experts, hidden = spec.experts, spec.expert_width
    self.spec = spec
    self.router = declare.param((experts, width), "E D", Role.ROUTER)
    self.selection_bias = declare.param((experts,), "E", Role.SELECTION_BIAS) if spec.selection_bias else None
    self.router_bias = declare.bias((experts,), "E", present=spec.router_bias)
    self.gate_up = declare.param((experts, 2 * hidden, width), "E F2 D", Role.EXPERT)
    self.gate_up_bias = declare.bias((experts, 2 * hidden), "E F2", present=spec.bias)
    self.down = declare.param((experts, width, hidden), "E D F", Role.EXPERT)
    self.down_bias = declare.bias((experts, width), "E D", present=spec.bias)
    self.shared = None if spec.shared is None else spec.shared.build(width, declare)
    self.shared_gate = declare.param((1, width), "1 D", Role.ROUTER) if spec.shared_gate else None

  @property
  def expert_params(self) -> list[nnx.Param]:
    """The parameters that hold the experts, one slice along axis 0 an expert."""
    params = (self.gate_up, self.gate_up_bias, self.down, self.down_bias)
    return [param for param in params if param is not None]

  def feed(
    self, x_TD: Float[Array, "T D"], norm: Norm, choice: ExpertChoice
  ) -> tuple[Float[Array, "T D"], ExpertTrace]:
    """Norms the rows, routes the valid ones and runs their experts; experts give invalid rows zeros."""
    spec, valid_T = self.spec, choice.valid
    with jax.named_scope("router"):
      logits = normed_matmul(x_TD, norm, self.router, self.router_bias, used=choice.used, dtype="float32")
      bias = None if self.selection_bias is None else self.selection_bias[...].astype(jnp.float32)
      routing = choice.route(logits, spec.top_k, router=spec.router, valid=valid_T, selection_bias=bias)
    with jax.named_scope("experts"):
      y, dropped = self._experts(norm(x_TD), routing, valid_T, choice.expert_capacity)
    if self.shared is not None:
      with jax.named_scope("shared"):
        y = y + self._shared(self.shared, x_TD, norm, choice.used)
    return y, ExpertTrace(logits, routing.routing, dropped, bias, spec.top_k, spec.router)

  def _experts(
    self, x_TD: jax.Array, routing: TiledRouting, valid_T: jax.Array, expert_capacity: int | None
  ) -> tuple[jax.Array, jax.Array]:
    """The weighted sum of each row's experts, and how many assignments were dropped."""
    ids, weights = routing.ids, routing.weights
    rows, top_k = ids.shape
    if self.spec.scale_input:
      # Each assignment becomes a row of its own; its place among the tiles does not change.
      x_TD = (x_TD[:, None, :] * weights[:, :, None].astype(x_TD.dtype)).reshape(rows * top_k, -1)
      ids, weights = ids.reshape(-1, 1), jnp.ones((rows * top_k, 1), jnp.float32)
      valid_T = jnp.repeat(valid_T, top_k)
    more = {
      "gate_up_bias": array_of(self.gate_up_bias),
      "down_bias": array_of(self.down_bias),
      "activation": self.spec.activation,
    }
    gate_up, down, dropped = weight(self.gate_up), weight(self.down), jnp.zeros((), jnp.int32)
    if expert_capacity is None:
      y = expert_ffn(x_TD, ids, weights, gate_up, down, valid=valid_T, tiles=routing.tiles, **more)
    elif held := held_as(gate_up) or held_as(down):
      raise ValueError(f"{held} experts cannot be trained: load them with weights='float' and dtype='float32'")
    else:
      arrays = cast(tuple[jax.Array, jax.Array], (gate_up, down))
      y, dropped = capacity_ffn(x_TD, ids, weights, *arrays, expert_capacity, **more)
    return y.reshape(rows, top_k, -1).sum(axis=1) if self.spec.scale_input else y, dropped

  def _shared(self, shared: Dense, x_TD: jax.Array, norm: Norm, used: jax.Array | None) -> jax.Array:
    y = shared(x_TD, norm, used)
    if self.shared_gate is None:
      return y
    share = jax.nn.sigmoid(normed_matmul(x_TD, norm, self.shared_gate, used=used, dtype="float32"))
    return (y.astype(jnp.float32) * share).astype(y.dtype)
