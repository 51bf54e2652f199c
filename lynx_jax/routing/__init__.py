"""Which experts a batch runs: the model's own rule, Lynx, its rivals, and policies with a promise.

The op and the policies live in `pallas_kernels.lynx_route`, beside the kernels that compute them. This package adds
what the layers above need: statistics of a routing, and the `Route` that a layer with experts calls.
"""

from lynx_jax.routing.route import Route, route_by
from lynx_jax.routing.stats import RoutingStats, routing_stats
from pallas_kernels.lynx_route import (
  OEA,
  Auto,
  Budget,
  CountVote,
  Lynx,
  MassFloor,
  Prune,
  Router,
  Routing,
  RoutingPolicy,
  Scores,
  TiledRouting,
  TopK,
  XShare,
  as_policy,
  format_policy,
  lynx_route,
  lynx_route_tiles,
  named_policy,
  parse_policy,
)

__all__ = [
  "OEA",
  "Auto",
  "Budget",
  "CountVote",
  "Lynx",
  "MassFloor",
  "Prune",
  "Route",
  "Router",
  "Routing",
  "RoutingPolicy",
  "RoutingStats",
  "Scores",
  "TiledRouting",
  "TopK",
  "XShare",
  "as_policy",
  "format_policy",
  "lynx_route",
  "lynx_route_tiles",
  "named_policy",
  "parse_policy",
  "route_by",
  "routing_stats",
]
