"""How a layer with experts asks for its routing."""

import functools
from typing import Protocol, runtime_checkable

from pallas_kernels.dims import RouterLogits, RowMask, SelectionBias
from pallas_kernels.lynx_route import Router, Routing, RoutingPolicy, lynx_route


@runtime_checkable
class Route(Protocol):
  """Turns the router logits of one layer into a routing: `lynx_route` with its policy filled in."""

  def __call__(
    self,
    logits: RouterLogits,
    top_k: int,
    /,
    *,
    router: Router,
    valid: RowMask,
    selection_bias: SelectionBias | None = None,
  ) -> Routing:
    """Routes the valid rows."""
    ...


def route_by(policy: RoutingPolicy | str | None) -> Route:
  """`lynx_route` under `policy`, with the rows grouped by expert for `expert_ffn`; None is the model's own routing."""
  return functools.partial(lynx_route, policy=policy, tiles=True)
