"""Cuts every layer of a dense llama, and trains its routers, on what the dense model does with calibration text."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32

from experiments.moefy.forward import run, stacked_layers
from experiments.moefy.router import shares, train_router
from experiments.moefy.slices import Slices, activity, contributions, cut
from lynx_jax.models.decoder import Decoder, Layer
from lynx_jax.models.dense import Dense
from lynx_jax.models.parameters import by_path

_BATCH = 16
_GROUPED_ON_EVERY = 6  # tokens: neighbours tell little that is new of which neurons belong together


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CutLayer:
  """One layer's experts.

  Attributes:
    slices: where each neuron went.
    router: [E, D].
    first_loss: of the router, in nats, mean over its first steps.
    last_loss: the same over its last steps.
  """

  slices: Slices
  router: Float32[np.ndarray, "E D"]
  first_loss: float
  last_loss: float


def dense_ffn(x_TD: Float32[Array, "T D"], weights: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
  """The dense network, which remembers its inputs in float16."""
  gate_up, down = weights
  gate, up = jnp.split(x_TD @ gate_up.T, 2, axis=-1)
  return (jax.nn.silu(gate) * up) @ down.T, x_TD.astype(jnp.float16)


def dense_weights(layer: Layer) -> tuple[jax.Array, jax.Array]:
  """Both weights of a layer's dense network; of several layers where they are stacked."""
  assert isinstance(layer.ffn, Dense)
  return layer.ffn.gate_up[...], layer.ffn.down[...]


def ffn_inputs(decoder: Decoder, tokens: Int32[np.ndarray, "N L"]) -> np.ndarray:
  """The normed inputs of every layer's feed-forward part, float16 [layers, N * L, D]."""
  layers = stacked_layers(decoder)
  weights = dense_weights(layers)
  seen = jax.jit(lambda tokens: run(decoder, layers, tokens, dense_ffn, weights)[1])
  return np.concatenate(
    [np.asarray(seen(jnp.asarray(tokens[at : at + _BATCH]))) for at in range(0, len(tokens), _BATCH)], axis=1
  )


def cut_layers(
  decoder: Decoder,
  inputs: np.ndarray,
  *,
  shared: int,
  experts: int,
  progress: Callable[[int], None] = lambda layer: None,
) -> Iterator[CutLayer]:
  """Each layer's slices and router; `inputs` are `ffn_inputs`, `shared` neurons of a layer always run."""
  busy, adds = jax.jit(activity), jax.jit(contributions)
  for index, layer in enumerate(decoder.layers):
    gate_up, down = dense_weights(layer)
    x_TD = jnp.asarray(inputs[index], jnp.float32)
    found = cut(np.asarray(busy(x_TD[::_GROUPED_ON_EVERY], gate_up, down)), shared=shared, experts=experts)
    gate_ups, downs = expert_weights(found, np.asarray(gate_up), np.asarray(down))
    blocks = [adds(x_TD[at : at + 2048], gate_ups, downs) for at in range(0, len(x_TD), 2048)]
    router, losses = train_router(x_TD, shares(jnp.concatenate(blocks)), jax.random.key(index))
    tenth = max(1, len(losses) // 10)
    yield CutLayer(
      slices=found,
      router=np.asarray(router),
      first_loss=float(losses[:tenth].mean()),
      last_loss=float(losses[-tenth:].mean()),
    )
    progress(index)


def expert_weights(
  slices: Slices, gate_up: Float32[np.ndarray, "F2 D"], down: Float32[np.ndarray, "D F"]
) -> tuple[Float32[np.ndarray, "E f2 D"], Float32[np.ndarray, "E D f"]]:
  """The experts' weights: gate rows before up rows, as `expert_ffn` has them."""
  gate, up = np.split(gate_up, 2)
  chosen = slices.experts
  return np.concatenate([gate[chosen], up[chosen]], axis=1), np.ascontiguousarray(down[:, chosen].transpose(1, 0, 2))


def moe_arrays(decoder: Decoder, layers: list[CutLayer]) -> dict[str, np.ndarray]:
  """Parameters of the decoder with experts, by path: those of the dense one, its feed-forward parts replaced."""
  arrays = {name: np.asarray(value) for name, value in by_path(decoder).items()}
  for index, layer in enumerate(layers):
    path, shared = f"layers.{index}.ffn", layer.slices.shared
    gate_up, down = arrays.pop(f"{path}.gate_up"), arrays.pop(f"{path}.down")
    gate, up = np.split(gate_up, 2)
    arrays[f"{path}.shared.gate_up"] = np.concatenate([gate[shared], up[shared]])
    arrays[f"{path}.shared.down"] = np.ascontiguousarray(down[:, shared])
    arrays[f"{path}.gate_up"], arrays[f"{path}.down"] = expert_weights(layer.slices, gate_up, down)
    arrays[f"{path}.router"] = layer.router
  return arrays
