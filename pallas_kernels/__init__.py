"""Kernels of Mixture-of-Experts inference: functions of arrays, usable without lynx_jax."""

from pallas_kernels.append_heads import APPEND_HEADS, append_heads
from pallas_kernels.append_latents import APPEND_LATENTS, append_latents
from pallas_kernels.block_tables import BLOCK, BlockTables
from pallas_kernels.chunk_attention import CHUNK_ATTENTION, chunk_attention
from pallas_kernels.cpu import describe, use_threads
from pallas_kernels.decode_attention import DECODE_ATTENTION, decode_attention
from pallas_kernels.expert_ffn import EXPERT_FFN, capacity_ffn, expert_ffn
from pallas_kernels.gpu.cuda_graph import graph_options
from pallas_kernels.gpu.plugin_message import drop_plugin_message
from pallas_kernels.greedy_token import GREEDY_TOKEN, greedy_token
from pallas_kernels.latent_attention import LATENT_ATTENTION, latent_attention
from pallas_kernels.lynx_route import LYNX_ROUTE, lynx_route
from pallas_kernels.prompt_heads import PROMPT_HEADS, prompt_heads
from pallas_kernels.rms_norm import RMS_NORM, rms_norm
from pallas_kernels.row_matmul import ROW_MATMUL, row_matmul, row_matmuls
from pallas_kernels.weights.base import HeldWeight, Weight, dequantize
from pallas_kernels.weights.bfloat16 import BFloat16Bits, bits_of
from pallas_kernels.weights.form import INT4, INT8, MXFP4, Form
from pallas_kernels.weights.quantized import QuantizedWeight
from pallas_kernels.weights.quantizing import abstract_quantized, quantize, relayout

__all__ = [
  "BLOCK",
  "INT4",
  "INT8",
  "MXFP4",
  "BFloat16Bits",
  "BlockTables",
  "Form",
  "HeldWeight",
  "QuantizedWeight",
  "Weight",
  "abstract_quantized",
  "append_heads",
  "append_latents",
  "bits_of",
  "capacity_ffn",
  "chunk_attention",
  "decode_attention",
  "dequantize",
  "expert_ffn",
  "explain",
  "graph_options",
  "greedy_token",
  "latent_attention",
  "lynx_route",
  "prompt_heads",
  "quantize",
  "relayout",
  "rms_norm",
  "row_matmul",
  "row_matmuls",
  "use_threads",
]

_OPS = (
  ROW_MATMUL,
  APPEND_HEADS,
  APPEND_LATENTS,
  PROMPT_HEADS,
  DECODE_ATTENTION,
  LATENT_ATTENTION,
  CHUNK_ATTENTION,
  LYNX_ROUTE,
  EXPERT_FFN,
  GREEDY_TOKEN,
  RMS_NORM,
)

drop_plugin_message()


def explain() -> str:
  """What runs for each op on this machine's default platform, and why other implementations do not."""
  lines = [line for op in _OPS for line in op.explain()]
  return "\n".join([*lines, f"on CPUs: {describe()}"])
