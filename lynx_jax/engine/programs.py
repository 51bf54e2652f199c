"""The two compiled programs of inference, shared by everything that runs them."""

import jax

from lynx_jax.engine.steps import decode_loop, prefill
from pallas_kernels import graph_options

__all__ = ["compiled_decode_loop", "compiled_prefill", "graph_options"]

compiled_prefill = jax.jit(prefill, static_argnames=("capacity", "collect_totals"))
"""`prefill`, compiled; one program for each shape of the prompts and each capacity."""

compiled_decode_loop = jax.jit(
  decode_loop, static_argnames=("policy",), donate_argnames=("state",), compiler_options=graph_options()
)
"""`decode_loop`, compiled: on an NVIDIA GPU one CUDA graph, no host between tokens. Takes the state's memory over."""
