"""The policy that leaves the model alone."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from lynx_jax.routing.base import RoutingPolicy, Scores
from pallas_kernels.dims import ExpertMask


def every_expert(scores: Scores) -> ExpertMask:
  """The keep set that restricts nothing."""
  return jnp.ones(scores.num_experts, bool)


@dataclass(frozen=True, slots=True)
class TopK(RoutingPolicy):
  """The model's own routing, unchanged."""

  batch_aware: ClassVar[bool] = False

  def keep_set(self, scores: Scores) -> ExpertMask:
    """Every expert."""
    return every_expert(scores)
