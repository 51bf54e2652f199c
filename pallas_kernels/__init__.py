"""Kernels of Mixture-of-Experts inference: functions of arrays, usable without lynx_jax."""

from pallas_kernels.bfloat16_bits import stored_experts
from pallas_kernels.cuda_graph import graph_options
from pallas_kernels.expert_ffn import EXPERT_FFN, capacity_ffn, expert_ffn
from pallas_kernels.row_matmul import ROW_MATMUL, row_matmul, row_matmuls

__all__ = ["capacity_ffn", "expert_ffn", "explain", "graph_options", "row_matmul", "row_matmuls", "stored_experts"]


def explain() -> str:
  """What runs for each op on this machine's default platform, and why other implementations do not."""
  return "\n".join(line for op in (EXPERT_FFN, ROW_MATMUL) for line in op.explain())
