"""A policy takes one new file: this one declares it, gives it a text form, routes and generates with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lynx_jax
from lynx_jax.routing import Budget, RoutingPolicy, Scores, format_policy, lynx_route, named_policy, parse_policy
from tests.routing.routing_cases import normal_logits
from tests.small_models import random_prompts, small_params


@named_policy("toy")
@dataclasses.dataclass(frozen=True, slots=True)
class Toy(RoutingPolicy):
  """Keeps the experts whose logit is among the `knob` largest of the whole batch."""

  knob: int = 3

  def keep_set(self, scores: Scores) -> jax.Array:
    """The experts that hold the `knob` largest logits of valid rows."""
    best_E = jnp.max(jnp.where(scores.valid[:, None], scores.logits, -jnp.inf), axis=0)
    return best_E >= jax.lax.top_k(best_E, self.knob)[0][-1]


def test_it_has_a_text_form():
  assert parse_policy("toy") == Toy(3)
  assert parse_policy("toy:knob=2") == Toy(2)
  assert format_policy(Toy(5)) == "toy:knob=5"
  assert parse_policy("budget:policy=(toy:knob=4),max_active=3") == Budget(Toy(4), max_active=3)


def test_it_routes_inside_its_keep_set():
  logits = normal_logits(0, 6, 8)
  best = np.argsort(-logits.max(axis=0), kind="stable")
  routing = lynx_route(jnp.asarray(logits), 2, policy=Toy(3))
  assert set(np.flatnonzero(routing.active)) <= set(best[:3])
  assert (np.diff(np.take_along_axis(logits, np.asarray(routing.ids), axis=1)) <= 0).all()


def test_the_engine_generates_with_it():
  texts = lynx_jax.generate(small_params(), random_prompts([3, 5, 4, 6]), max_new_tokens=4, policy=Toy(2), stats=True)
  stats = texts[0].stats
  assert stats is not None
  assert np.mean(stats.active_experts) < np.mean(stats.own_experts)


@pytest.mark.usefixtures("own_errors")
def test_a_name_is_taken_once():
  with pytest.raises(
    ValueError, match=r"is 'lynx': expected a name that pallas_kernels.lynx_route.lynx.Lynx does not have; take"
  ):
    named_policy("lynx")(Toy)
  with pytest.raises(ValueError, match="is 'My Policy': expected a lower-case identifier"):
    named_policy("My Policy")
  assert named_policy("toy")(Toy) is Toy
