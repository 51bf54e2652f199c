"""A model's decode loop with abstract weights: to compile for a GPU that is not there, without allocating anything."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lynx_jax.engine.state import DecodeState
from lynx_jax.engine.steps import decode_loop, prefill
from lynx_jax.models.decoder import Decoder
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.parameters import assemble, declarations
from lynx_jax.models.params import Params
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.placement import Role, dtype_of
from lynx_jax.routing import RoutingPolicy
from pallas_kernels.gates.forms import Held

COMPILED = ("Mixtral-8x7B", "OLMoE-1B-7B", "Qwen3-30B-A3B")
"""Released models whose whole loops are compiled and reported."""
STATE = 1
"""Position of the argument whose memory the loop takes over."""


def decode_program(
  config: Mapping[str, Any],
  policy: RoutingPolicy | None,
  *,
  batch: int = 16,
  capacity: int = 1024,
  held: Mapping[Role, Held] | None = None,
) -> tuple[Callable[..., DecodeState], tuple[Any, ...]]:
  """The loop as a function, and its abstract arguments: weights, a decode state, a number of steps.

  Args:
    config: a `config.json`.
    policy: which experts the batch may use.
    batch: rows.
    capacity: positions of the KV cache, in tokens.
    held: how parameters of a role are held; all others are bfloat16.
  """
  params = Params(decoder=_decoder(spec_from_config(config), held or {}))
  ids, lengths = jax.ShapeDtypeStruct((batch, 16), jnp.int32), jax.ShapeDtypeStruct((batch,), jnp.int32)
  state = jax.eval_shape(lambda params, ids, lengths: prefill(params, ids, lengths, capacity), params, ids, lengths)

  def loop(params: Params, state: DecodeState, max_steps: jax.Array) -> DecodeState:
    return decode_loop(params, state, policy=policy, max_steps=max_steps)

  return loop, (params, state, jax.ShapeDtypeStruct((), jnp.int32))


def _decoder(spec: DecoderSpec, held: Mapping[Role, Held]) -> Decoder:
  arrays = {
    path: held[one.role].abstract(*one.shape)
    if one.role in held
    else jax.ShapeDtypeStruct(one.shape, dtype_of(one.role, jnp.bfloat16))
    for path, one in declarations(spec).items()
  }
  return assemble(spec, arrays)
