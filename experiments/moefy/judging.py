"""Perplexity of the cut model against the experts that a token runs, chosen by its router, by truth, or at random."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32

from experiments.moefy.cutting import CutLayer, dense_weights, expert_weights
from experiments.moefy.forward import run, stacked_layers
from lynx_jax.evals.bootstrap import Interval, interval, resamples
from lynx_jax.models.decoder import Decoder

CHOICES = ("router", "oracle", "random")
_BATCH = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
  """Perplexity where every token runs its best `experts` in every layer, the best by `choice`.

  Attributes:
    choice: one of `CHOICES`.
    experts: experts a token, beside the part that always runs.
    perplexity: with an interval over windows.
    times: perplexity over that with all experts on, on the same windows.
  """

  choice: str
  experts: int
  perplexity: Interval
  times: Interval


class _Weights(NamedTuple):
  """One layer, or all of them with a first axis over layers."""

  shared_gate_up: Float32[Array, "*layers f2 D"]
  shared_down: Float32[Array, "*layers D f"]
  gate_up: Float32[Array, "*layers E F2 D"]
  down: Float32[Array, "*layers E D F"]
  router: Float32[Array, "*layers E D"]


def perplexities(
  decoder: Decoder, layers: Sequence[CutLayer], tokens: Int32[np.ndarray, "N L"], sizes: Sequence[int]
) -> list[Kept]:
  """Each choice at each number of experts; with all of them on, the choice does not matter and is made once.

  The oracle takes the experts whose own outputs are largest, which no router can know without running them. `sizes`
  begin with all experts.
  """
  count = len(layers[0].slices.experts)
  if sizes[0] != count:
    raise ValueError(f"sizes are {list(sizes)}: begin with all {count} experts, to which the others are compared")
  stacked, weights = stacked_layers(decoder), _stacked_weights(decoder, layers)

  @jax.jit
  def losses(tokens: jax.Array, size: jax.Array, choice: jax.Array) -> jax.Array:
    keys = jax.random.split(jax.random.key(0), len(layers))
    hidden, _ = run(decoder, stacked, tokens, _kept_ffn(count, size, choice), (weights, keys))
    log = jax.nn.log_softmax(decoder.logits(hidden)[:, :-1])
    return -jnp.mean(jnp.take_along_axis(log, tokens[:, 1:, None], axis=-1), axis=(1, 2))

  def by_window(choice: int, size: int) -> np.ndarray:
    parts = np.split(tokens, range(_BATCH, len(tokens), _BATCH))
    found = [np.asarray(losses(jnp.asarray(part), jnp.int32(size), jnp.int32(choice))) for part in parts]
    return np.concatenate(found).astype(np.float64)

  whole, kept = by_window(0, count), []
  for size in sizes:
    for index, name in enumerate(CHOICES):
      if size < count or index == 0:
        found = whole if size == count else by_window(index, size)
        kept.append(Kept(choice=name, experts=size, perplexity=_exponent(found), times=_exponent(found - whole)))
  return kept


def _exponent(losses: np.ndarray) -> Interval:
  """Exponent of the mean, with an interval over windows."""
  return interval(float(np.exp(losses.mean())), np.exp(losses[resamples(len(losses))].mean(axis=1)))


def _stacked_weights(decoder: Decoder, layers: Sequence[CutLayer]) -> _Weights:
  found = []
  for layer, cut in zip(decoder.layers, layers, strict=True):
    gate_up, down = map(np.asarray, dense_weights(layer))
    gate, up = np.split(gate_up, 2)
    shared = cut.slices.shared
    apart = expert_weights(cut.slices, gate_up, down)
    arrays = (np.concatenate([gate[shared], up[shared]]), down[:, shared], *apart, cut.router)
    found.append(_Weights(*map(jnp.asarray, arrays)))
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def _kept_ffn(count: int, size: jax.Array, choice: jax.Array) -> Any:
  """The shared part and `size` experts of each token; every expert is computed, since the oracle has to know them."""

  def ffn(x_TD: jax.Array, given: tuple[_Weights, jax.Array]) -> tuple[jax.Array, None]:
    weights, key = given
    gate, up = jnp.split(jnp.einsum("td,efd->etf", x_TD, weights.gate_up), 2, axis=-1)
    each_ETD = jnp.einsum("etf,edf->etd", jax.nn.silu(gate) * up, weights.down)
    scores_TE = jax.lax.switch(
      choice,
      [
        lambda: x_TD @ weights.router.T,
        lambda: jnp.linalg.norm(each_ETD, axis=-1).T,
        lambda: jax.random.uniform(key, (x_TD.shape[0], count)),
      ],
    )
    on_TE = jnp.argsort(jnp.argsort(-scores_TE, axis=-1), axis=-1) < size
    gate, up = jnp.split(x_TD @ weights.shared_gate_up.T, 2, axis=-1)
    always_TD = (jax.nn.silu(gate) * up) @ weights.shared_down.T
    return always_TD + jnp.einsum("te,etd->td", on_TE.astype(jnp.float32), each_ETD), None

  return ffn
