"""XLA options that make a decode loop one CUDA graph."""

from collections.abc import Mapping
from types import MappingProxyType

# With XLA's defaults a `while_loop` stays on the host, a round trip a token. A per-compilation option needs the full
# list of what may join a graph; "+WHILE" is understood in XLA_FLAGS only (jax 0.10 to 0.12).
GRAPH_OPTIONS: Mapping[str, str] = MappingProxyType(
  {
    "xla_gpu_enable_command_buffer": (
      "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONDITIONAL,WHILE,DYNAMIC_SLICE_FUSION"
    ),
    "xla_gpu_graph_min_graph_size": "1",
  }
)
