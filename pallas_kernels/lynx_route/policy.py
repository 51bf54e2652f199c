"""`RoutingPolicy`, which every policy is, the names that policies have as text, and the `Routing` they lead to."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

from pallas_kernels.checks import refusal, require
from pallas_kernels.dims import ExpertIds, ExpertMask, ExpertWeights
from pallas_kernels.expert_ffn.tiles import Tiles
from pallas_kernels.lynx_route.scores import Scores

# The largest size that a knob may have: sizes become int32.
MOST = 2**31 - 1
# Policies that have a text form, by name.
POLICIES: dict[str, type["RoutingPolicy"]] = {}


class Routing(NamedTuple):
  """Which experts each row runs, and with what weight.

  Attributes:
    ids: int32 [T, K], distinct in each row, by descending logit. An invalid row repeats experts that other rows read
      anyway, so that it adds no memory traffic.
    weights: float32 [T, K], zero on invalid rows.
    active: bool [E], the experts that some valid row runs.
  """

  ids: ExpertIds
  weights: ExpertWeights
  active: ExpertMask


class TiledRouting(NamedTuple):
  """A `Routing`, and the rows of each expert, as a layer with experts takes it.

  Attributes:
    ids: as in `Routing`.
    weights: as in `Routing`.
    active: as in `Routing`.
    tiles: the valid rows of each active expert, as `expert_ffn` takes them; None where it should group them itself.
  """

  ids: ExpertIds
  weights: ExpertWeights
  active: ExpertMask
  tiles: Tiles | None = None

  @property
  def routing(self) -> Routing:
    """The routing without the tiles."""
    return Routing(self.ids, self.weights, self.active)


class RoutingPolicy(abc.ABC):
  """Which experts a decode batch may use.

  Subclasses are frozen dataclasses, because jit takes a policy as a static argument. Under a batch-aware policy, what a
  row computes depends on the rows that share its batch.

  Attributes:
    batch_aware: whether the valid rows choose a keep set together. If not, `keep_set` restricts nothing: every row runs
      its own top `experts_per_token`.
  """

  __slots__ = ()
  __dataclass_fields__: ClassVar[dict[str, Any]]  # tells type checkers what every subclass is
  batch_aware: ClassVar[bool] = True

  def experts_per_token(self, top_k: int) -> int:
    """Experts that one token runs where the model's own rule runs `top_k`."""
    return top_k

  def check_sizes(self, experts: int, top_k: int) -> None:  # noqa: B027 (most policies have nothing to check)
    """ValueError if a knob cannot work, or does nothing, in a layer with `experts` experts, `top_k` a token."""

  @abc.abstractmethod
  def keep_set(self, scores: Scores) -> ExpertMask:
    """The experts [E] that rows may use. If they are too few for one row, the remap adds more."""


def check_kept(knob: str, size: int, experts: int, experts_per_token: int) -> None:
  """ValueError unless a set of `size` experts can hold what one token runs, and there are that many experts."""
  expected = f"from {experts_per_token}, the experts that every token runs, to {experts}, all experts of a layer"
  require(experts_per_token <= size <= experts, knob, size, expected)


def check_chosen(knob: str, k0: int, top_k: int) -> None:
  """ValueError if `k0` of a token's own experts are more than the `top_k` that it runs."""
  require(k0 <= top_k, knob, k0, f"at most top_k = {top_k}, the experts that a token runs", "more would do nothing")


_Policy = TypeVar("_Policy", bound=type[RoutingPolicy])


def named_policy(name: str) -> Callable[[_Policy], _Policy]:
  """Class decorator: gives a policy the name by which command lines and `parse_policy` know it.

      @named_policy("toy")
      @dataclasses.dataclass(frozen=True)
      class Toy(RoutingPolicy): ...

  Raises:
    ValueError: `name` is not a lower-case identifier, or another class has it.
  """
  ok = isinstance(name, str) and name.isidentifier() and name == name.lower()
  require(ok, "name of a policy", name, "a lower-case identifier", "give one such as 'my_policy'")

  def register(cls: _Policy) -> _Policy:
    other = POLICIES.get(name)
    # The same class may come again: from a module that is reloaded, or a notebook's cell that runs twice.
    if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
      expected = f"a name that {other.__module__}.{other.__qualname__} does not have"
      raise refusal("name of a policy", name, expected, "take another")
    POLICIES[name] = cls
    return cls

  return register
