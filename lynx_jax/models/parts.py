"""What a layer asks of its two parts, attention and feed-forward, whatever kinds they are."""

import dataclasses
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from lynx_jax.models.norms import Norm
from lynx_jax.models.paged import PagedRows
from lynx_jax.models.rope import Rotation
from lynx_jax.routing import Route, Router, Routing, RoutingStats, route_by, routing_stats

Projected = TypeVar("Projected")
Cache = TypeVar("Cache")


@runtime_checkable
class LayerCache(Protocol):
  """What one layer remembers of the positions it has seen: a pytree of arrays."""

  def with_room(self, positions: int) -> "LayerCache":
    """The same cache with room for that many positions."""
    ...


@runtime_checkable
class AttentionPart(Protocol[Projected, Cache]):
  """A kind of attention: its projections (a module of parameters), and how it attends (pure functions).

  `Projected` is what `project_in` makes of the rows; only the same part reads it. `Cache` is its kind of cache.
  """

  spec: Any

  def project_in(self, x_TD: Float[Array, "T D"], norm: Norm, used: Int32[Array, ""] | None = None, /) -> Projected:
    """Projects normed rows, before positions; `used` as for `row_matmul`."""
    ...

  def attend_prompts(
    self,
    projected: Projected,
    rotation: Rotation,
    positions_BL: Int[Array, "B L"],
    lengths_B: Int[Array, "B"],
    /,
  ) -> tuple[Float[Array, "T _"], Cache]:
    """Rows of L positions attend to themselves, causally; returns the result and a cache of L positions."""
    ...

  def attend_cached(
    self, projected: Projected, rotation: Rotation, cache: Cache, positions_B: Int[Array, "B"], /
  ) -> tuple[Float[Array, "B _"], Cache]:
    """One position a row is written to the cache and attends to all up to it; the cache's memory is reused."""
    ...

  def attend_paged(
    self, projected: Projected, rotation: Rotation, cache: Cache, rows: PagedRows, /
  ) -> tuple[Float[Array, "T _"], Cache]:
    """Rows of several sequences are written to a paged cache, and attend to what their sequences hold up to them."""
    ...

  def project_out(
    self,
    attended_TX: Float[Array, "T _"],
    residual_TD: Float[Array, "T D"] | None,
    used: Int32[Array, ""] | None = None,
    /,
  ) -> Float[Array, "T D"]:
    """Maps results back to the model width, and adds the residual stream where one is given; `used` as above."""
    ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExpertTrace:
  """What one MoE layer decided, from what, and by which rule.

  Attributes:
    logits: the router's.
    routing: which experts each row runs.
    dropped: assignments dropped for lack of expert capacity.
    selection_bias: what is added to the gates for the choice, where the layer has it.
    top_k: experts of a token under the model's own rule (static).
    router: how logits become gates and weights (static).
  """

  logits: Float32[Array, "T E"]
  routing: Routing
  dropped: Int32[Array, ""]
  selection_bias: Float32[Array, "E"] | None
  top_k: int = dataclasses.field(metadata={"static": True})
  router: Router = dataclasses.field(metadata={"static": True})

  def stats(self, valid: Bool[Array, "T"] | None = None) -> RoutingStats:
    """What the routing reads and retains, beside the model's own routing of the valid rows."""
    rule: dict[str, Any] = {"router": self.router, "selection_bias": self.selection_bias}
    return routing_stats(self.logits, self.top_k, self.routing, valid, **rule)


# The model's own routing.
OWN_ROUTE = route_by(None)


class ExpertChoice(NamedTuple):
  """How every MoE layer of one run chooses and runs experts.

  Attributes:
    valid: rows that count; experts give the others zeros.
    route: turns router logits into a routing.
    expert_capacity: for training: each expert takes at most that many assignments, in one batched product, and the
      rest are dropped and counted. None computes every assignment.
    used: all rows that count are among the first so many; None says nothing. Projections leave out the others where
      they can.
  """

  valid: Bool[Array, "T"]
  route: Route = OWN_ROUTE
  expert_capacity: int | None = None
  used: Int32[Array, ""] | None = None


@runtime_checkable
class FeedForwardPart(Protocol):
  """A kind of feed-forward part."""

  def feed(
    self, x_TD: Float[Array, "T D"], norm: Norm, choice: ExpertChoice, /
  ) -> tuple[Float[Array, "T D"], ExpertTrace | None]:
    """The part's output for normed rows, in `x`'s dtype, and what its experts did, where it has any."""
    ...
