"""The two compiled programs of inference, shared by everything that runs them."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax

from lynx_jax.engine.steps import decode_loop, prefill
from pallas_kernels import graph_options

__all__ = ["compiled_decode_loop", "compiled_prefill", "graph_options"]

_LOG = logging.getLogger(__name__)


def _announced(function: Callable[..., Any], describe: Callable[..., str]) -> Callable[..., Any]:
  """`function`, which logs what is compiled: JAX runs its Python once for each new program."""

  @functools.wraps(function)
  def announced(*arguments: Any, **options: Any) -> Any:
    _LOG.info("compiling %s ...", describe(*arguments, **options))
    return function(*arguments, **options)

  return announced


def _prefill_program(params: Any, token_ids: Any, *others: Any, **options: Any) -> str:
  return "prefill of {} rows x {} positions".format(*token_ids.shape)


def _decode_program(params: Any, state: Any, *, policy: Any, **options: Any) -> str:
  return f"decode of {state.token.shape[0]} rows x {state.capacity} positions{f', {policy}' if policy else ''}"


compiled_prefill = jax.jit(_announced(prefill, _prefill_program), static_argnames=("capacity", "collect_totals"))
"""`prefill`, compiled: one program for each shape of the prompts and each capacity."""

compiled_decode_loop = jax.jit(
  _announced(decode_loop, _decode_program),
  static_argnames=("policy",),
  donate_argnames=("state",),
  compiler_options=graph_options(),
)
"""`decode_loop`, compiled: on an NVIDIA GPU one CUDA graph. No host work between tokens. `state` is donated."""
