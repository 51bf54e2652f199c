"""Which experts a batch runs: the model's own rule, Lynx, its rivals, and policies with a promise."""

from lynx_jax.routing.auto import Auto
from lynx_jax.routing.base import Router, Routing, RoutingPolicy, Scores
from lynx_jax.routing.lynx import Lynx
from lynx_jax.routing.mass_floor import Budget, MassFloor
from lynx_jax.routing.parse import format_policy, parse_policy
from lynx_jax.routing.rivals import OEA, CountVote, Prune, XShare
from lynx_jax.routing.route import lynx_route
from lynx_jax.routing.stats import (
  RoutingStats,
  active_experts,
  expert_bytes,
  own_experts,
  retained_mass,
  routing_stats,
  summarize_retained,
)
from lynx_jax.routing.topk import TopK

__all__ = [
  "OEA",
  "Auto",
  "Budget",
  "CountVote",
  "Lynx",
  "MassFloor",
  "Prune",
  "Router",
  "Routing",
  "RoutingPolicy",
  "RoutingStats",
  "Scores",
  "TopK",
  "XShare",
  "active_experts",
  "expert_bytes",
  "format_policy",
  "lynx_route",
  "own_experts",
  "parse_policy",
  "retained_mass",
  "routing_stats",
  "summarize_retained",
]
