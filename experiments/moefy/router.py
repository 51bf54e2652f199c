"""Trains a router to predict, from a token's normed hidden state, which experts would add most to its output."""

import functools
from typing import cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Float32

_STEPS, _ROWS, _RATE = 600, 2048, 3e-3


def loss(router_ED: Float32[Array, "E D"], x_TD: Float[Array, "T D"], shares_TE: Float32[Array, "T E"]) -> jax.Array:
  """Cross-entropy in nats of the router's probabilities under each expert's true share of the output (ListNet)."""
  log = jax.nn.log_softmax(x_TD @ router_ED.T)
  return -jnp.mean(jnp.sum(shares_TE * log, axis=-1))


def shares(contributions_TE: Float32[Array, "T E"]) -> Float32[Array, "T E"]:
  """Norms of what a token's experts add, scaled to sum to 1: what the router's softmax should be.

  Squared, they are proportional to what leaving an expert out changes, as squared weights are in other models.
  """
  return contributions_TE / jnp.maximum(jnp.sum(contributions_TE, axis=-1, keepdims=True), 1e-20)


@functools.partial(jax.jit, static_argnames=("steps", "rows"))
def train_router(
  x_TD: Float32[Array, "T D"],
  shares_TE: Float32[Array, "T E"],
  key: Array,
  *,
  steps: int = _STEPS,
  rows: int = _ROWS,
) -> tuple[Float32[Array, "E D"], Float32[Array, "steps"]]:
  """A router [E, D], and its loss at every step, in nats: Adam on random rows, the rate falling to zero."""
  optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, steps))
  router = jnp.zeros((shares_TE.shape[1], x_TD.shape[1]), jnp.float32)

  def step(carry: tuple[jax.Array, optax.OptState], key: Array) -> tuple[tuple[jax.Array, optax.OptState], jax.Array]:
    router, state = carry
    chosen = jax.random.randint(key, (rows,), 0, x_TD.shape[0])
    value, gradient = jax.value_and_grad(loss)(router, x_TD[chosen], shares_TE[chosen])
    updates, state = optimizer.update(gradient, state)
    return (cast(jax.Array, optax.apply_updates(router, updates)), state), value

  (router, _), losses = jax.lax.scan(step, (router, optimizer.init(router)), jax.random.split(key, steps))
  return router, losses
