"""The policy that leaves the model alone."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from pallas_kernels.dims import ExpertMask
from pallas_kernels.lynx_route.policy import RoutingPolicy, named_policy
from pallas_kernels.lynx_route.scores import Scores


def every_expert(scores: Scores) -> ExpertMask:
  """The keep set that restricts nothing."""
  return jnp.ones(scores.num_experts, bool)


@named_policy("topk")
@dataclass(frozen=True, slots=True)
class TopK(RoutingPolicy):
  """The model's own routing, unchanged."""

  batch_aware: ClassVar[bool] = False

  def keep_set(self, scores: Scores) -> ExpertMask:
    """Every expert."""
    return every_expert(scores)
