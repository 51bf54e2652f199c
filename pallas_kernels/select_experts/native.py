"""Rows' own experts natively on the CPU, where XLA takes a dozen small steps for them."""

import jax
import jax.numpy as jnp

from pallas_kernels.expert_ffn.blocks import DECODE_TILE
from pallas_kernels.expert_ffn.tiles import Tiles, tile_rows
from pallas_kernels.native import native_call, unavailable
from pallas_kernels.select_experts.router import Router
from pallas_kernels.select_experts.rules import OwnExperts, Rule, experts_run


def native_objection(logits, valid, selection_bias=None, *, top_k: int, rule: Rule, router: Router) -> str | None:
  """Why the native code cannot take these arguments, or None."""
  if not isinstance(rule, OwnExperts):
    return f"it routes rows by their own experts, not by {rule}"
  if selection_bias is not None or router.groups > 1 or router.scoring == "sparsemixer":
    biased = "" if selection_bias is None else " with a selection bias"
    return f"it takes softmax and sigmoid routers without groups or a bias, not {router}{biased}"
  return unavailable()


def select_experts_native(
  logits: jax.Array, valid: jax.Array, *, top_k: int, rule: Rule, router: Router, instructions: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array, Tiles]:
  """`select_experts` in C++ (pallas_kernels/native/select_experts.cc)."""
  (rows, experts), run = logits.shape, experts_run(rule, top_k)
  ids, weights, active = native_call(
    "select_experts",
    (
      jax.ShapeDtypeStruct((rows, run), jnp.int32),
      jax.ShapeDtypeStruct((rows, run), jnp.float32),
      jax.ShapeDtypeStruct((experts,), jnp.bool_),
    ),
    logits.astype(jnp.float32),
    valid,
    instructions=instructions,
    top_k=top_k,
    sigmoid=int(router.scoring == "sigmoid"),
    renormalize=int(router.renormalize),
    unit_weights=int(router.unit_weights),
    scale=float(router.scale),
  )
  return ids, weights, active, tile_rows(ids, valid, experts, DECODE_TILE)
