"""Cuts a feed-forward network into a part that always runs and experts of neurons that are busy on the same tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int
from scipy.optimize import linear_sum_assignment

_PROJECTED = 256
_ROUNDS = 12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slices:
  """The assignment of neurons: every neuron of the network is in it once.

  Attributes:
    shared: neurons that always run.
    experts: neurons of each expert.
  """

  shared: Int[np.ndarray, "S"]
  experts: Int[np.ndarray, "E F"]


def activity(
  x_TD: Float[Array, "T D"], gate_up: Float[Array, "F2 D"], down: Float[Array, "D F"]
) -> Float32[Array, "T F"]:
  """How much each neuron adds to each token's output: its activation times the norm of its column of `down`."""
  gate, up = jnp.split(x_TD.astype(jnp.float32) @ gate_up.T, 2, axis=-1)
  return jnp.abs(jax.nn.silu(gate) * up) * jnp.linalg.norm(down, axis=0)


def cut(activity_TF: Float[np.ndarray, "T F"], *, shared: int, experts: int, seed: int = 0) -> Slices:
  """The `shared` neurons of largest mean square always run; the others are grouped by when they are busy.

  Raises:
    ValueError: the other neurons do not divide by `experts`.
  """
  neurons = activity_TF.shape[1]
  if (neurons - shared) % experts:
    raise ValueError(f"{neurons - shared} neurons do not divide into {experts} experts: choose another shared width")
  order = np.argsort(-np.square(activity_TF).mean(axis=0), kind="stable")
  rest = np.sort(order[shared:])
  groups = balanced_groups(_profiles(activity_TF[:, rest], seed), experts, seed=seed)
  return Slices(shared=np.sort(order[:shared]), experts=np.stack([rest[group] for group in groups]))


def _profiles(activity_TF: Float[np.ndarray, "T F"], seed: int) -> Float[np.ndarray, "F P"]:
  """Each neuron's course over tokens as a direction, projected at random onto few axes (Johnson-Lindenstrauss)."""
  random = np.random.default_rng(seed)
  centred = activity_TF - activity_TF.mean(axis=0, keepdims=True)
  projected = centred.T @ random.normal(size=(len(activity_TF), _PROJECTED)).astype(np.float32)
  return projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-12)


def balanced_groups(points_NP: Float[np.ndarray, "N P"], groups: int, *, seed: int = 0) -> Int[np.ndarray, "G M"]:
  """K-means with groups of equal size: each round assigns all points at once, at the least total distance.

  MoEfication's way of grouping neurons (arXiv 2110.01786, section 3.2, after Malinen and Franti 2014).
  """
  size = len(points_NP) // groups
  random = np.random.default_rng(seed)
  centres = points_NP[random.choice(len(points_NP), groups, replace=False)]
  group = np.full(len(points_NP), -1)
  for _ in range(_ROUNDS):
    distance = np.square(points_NP).sum(axis=1)[:, None] - 2 * points_NP @ centres.T + np.square(centres).sum(axis=1)
    _, places = linear_sum_assignment(np.repeat(distance, size, axis=1))
    before, group = group, places // size
    if (group == before).all():
      break
    centres = np.stack([points_NP[group == index].mean(axis=0) for index in range(groups)])
  return np.stack([np.flatnonzero(group == index) for index in range(groups)])


def contributions(
  x_TD: Float[Array, "T D"], gate_up: Float[Array, "E F2 D"], down: Float[Array, "E D F"]
) -> Float32[Array, "T E"]:
  """Norm of what each expert adds to each token's output."""
  gate, up = jnp.split(jnp.einsum("td,efd->tef", x_TD.astype(jnp.float32), gate_up), 2, axis=-1)
  return jnp.linalg.norm(jnp.einsum("tef,edf->ted", jax.nn.silu(gate) * up, down), axis=-1)
