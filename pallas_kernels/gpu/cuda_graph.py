"""XLA options that make a decode loop one CUDA graph."""


def graph_options() -> dict[str, str | bool]:
  """Options for `jax.jit(..., compiler_options=graph_options())`: loops, conditionals and kernels in one CUDA graph.

  With XLA's defaults a `lax.while_loop` stays on the host, a round trip a token. CPUs accept the options and ignore
  them.
  """
  return {
    # A per-compilation option needs the full list of what may join a graph; "+WHILE" is understood in XLA_FLAGS only
    # (jax 0.10 to 0.12).
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONDITIONAL,WHILE,DYNAMIC_SLICE_FUSION",
    "xla_gpu_graph_min_graph_size": "1",
  }
