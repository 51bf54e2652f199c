"""A routing policy of your own: say which experts the batch keeps, and the rest is done for you.

python -m examples.custom_policy
"""

import dataclasses

import jax
import jax.numpy as jnp

import lynx_jax
from lynx_jax.routing import Scores


@dataclasses.dataclass(frozen=True)
class Confident(lynx_jax.RoutingPolicy):
  """Keeps every expert to which some row gives at least `share` of its probability."""

  share: float

  def keep_set(self, scores: Scores) -> jax.Array:
    """Experts [E] that rows may use; the library fills, remaps, weighs, and guards lone rows."""
    return jnp.any((scores.worth >= self.share) & scores.valid[:, None], axis=0)


def main() -> None:
  """Routes a random batch, then generates with the policy and prints what it saved."""
  logits = 2 * jax.random.normal(jax.random.key(0), (16, 32))
  own = lynx_jax.lynx_route(logits, 4)
  kept = jax.jit(lynx_jax.lynx_route, static_argnames=("top_k", "policy"))(logits, top_k=4, policy=Confident(0.2))
  print(f"a random batch: {own.active.sum()} experts, with the policy {kept.active.sum()}")

  prompts = ["The man is", "The woman is", "A dog runs", "Question: What is rain?\nAnswer:"]
  done = lynx_jax.generate(lynx_jax.load(), prompts, max_new_tokens=24, policy=Confident(0.2), stats=True)
  print(done[0].stats)


if __name__ == "__main__":
  main()
