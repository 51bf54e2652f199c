"""How a layer with experts asks for its routing."""

import functools
from typing import Protocol, runtime_checkable

from pallas_kernels.dims import RouterLogits, RowMask, SelectionBias
from pallas_kernels.lynx_route import Router, RoutingPolicy, TiledRouting, lynx_route_tiles


@runtime_checkable
class Route(Protocol):
  """Turns the router logits of one layer into a routing: `lynx_route_tiles` with its policy filled in."""

  def __call__(
    self,
    logits: RouterLogits,
    top_k: int,
    /,
    *,
    router: Router,
    valid: RowMask,
    selection_bias: SelectionBias | None = None,
  ) -> TiledRouting:
    """Routes the valid rows."""
    ...


def route_by(policy: RoutingPolicy | str | None) -> Route:
  """`lynx_route_tiles` under `policy`; None is the model's own routing."""
  return functools.partial(lynx_route_tiles, policy=policy)
