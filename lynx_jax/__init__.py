"""Batched Mixture-of-Experts inference in JAX, with Lynx batch-aware expert selection (arXiv 2411.08982).

The whole public API. Names are imported on first use, so `import lynx_jax` costs nothing.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from lynx_jax.engine.async_engine import AsyncEngine
  from lynx_jax.engine.engine import Engine
  from lynx_jax.engine.host.adjustments import Adjustments
  from lynx_jax.engine.host.constraint import Constraint, ConstraintState
  from lynx_jax.engine.host.request import Request
  from lynx_jax.engine.programs import graph_options
  from lynx_jax.engine.report import RoutingReport
  from lynx_jax.engine.sampling import Sampling
  from lynx_jax.engine.settings import EngineSettings
  from lynx_jax.engine.state import DecodeState, Requests, greedy_requests
  from lynx_jax.engine.steps import decode_loop, decode_step, forward, next_logits, prefill
  from lynx_jax.generation import Completion, Piece, Timing, agenerate, astream, generate, stream
  from lynx_jax.loading import load
  from lynx_jax.models.attention import AttentionSpec
  from lynx_jax.models.checkpoints import convert
  from lynx_jax.models.decoder import Decoder, abstract_decoder
  from lynx_jax.models.dense import DenseSpec
  from lynx_jax.models.families import register_family
  from lynx_jax.models.families.family import Family
  from lynx_jax.models.mla import MLASpec
  from lynx_jax.models.moe import MoESpec
  from lynx_jax.models.params import Params
  from lynx_jax.models.spec import DecoderSpec, LayerSpec
  from lynx_jax.routing import (
    OEA,
    Auto,
    Budget,
    CountVote,
    Lynx,
    MassFloor,
    Prune,
    Router,
    Routing,
    RoutingPolicy,
    TopK,
    XShare,
    format_policy,
    lynx_route,
    parse_policy,
  )
  from lynx_jax.text.grammar import Grammars
  from lynx_jax.text.tokenizer import Tokenizer

  __version__: str

_HOMES = {
  "engine.async_engine": ("AsyncEngine",),
  "engine.engine": ("Engine",),
  "engine.host.adjustments": ("Adjustments",),
  "engine.host.constraint": ("Constraint", "ConstraintState"),
  "engine.host.request": ("Request",),
  "engine.programs": ("graph_options",),
  "engine.report": ("RoutingReport",),
  "engine.sampling": ("Sampling",),
  "engine.settings": ("EngineSettings",),
  "engine.state": ("DecodeState", "Requests", "greedy_requests"),
  "engine.steps": ("decode_loop", "decode_step", "forward", "next_logits", "prefill"),
  "generation": ("Completion", "Piece", "Timing", "agenerate", "astream", "generate", "stream"),
  "loading": ("load",),
  "models.attention": ("AttentionSpec",),
  "models.checkpoints": ("convert",),
  "models.decoder": ("Decoder", "abstract_decoder"),
  "models.dense": ("DenseSpec",),
  "models.families": ("register_family",),
  "models.families.family": ("Family",),
  "models.mla": ("MLASpec",),
  "models.moe": ("MoESpec",),
  "models.params": ("Params",),
  "models.spec": ("DecoderSpec", "LayerSpec"),
  "routing": (
    "OEA", "Auto", "Budget", "CountVote", "Lynx", "MassFloor", "Prune", "Router", "Routing", "RoutingPolicy",
    "TopK", "XShare", "format_policy", "lynx_route", "parse_policy",
  ),
  "text.grammar": ("Grammars",),
  "text.tokenizer": ("Tokenizer",),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 (by theme)
  "load", "convert", "Params", "Tokenizer", "Family", "register_family",
  "generate", "stream", "agenerate", "astream", "Completion", "Piece", "Timing", "Sampling", "RoutingReport",
  "Engine", "AsyncEngine", "EngineSettings", "Request", "Adjustments", "Constraint", "ConstraintState", "Grammars",
  "forward", "prefill", "next_logits", "decode_step", "decode_loop", "DecodeState", "Requests", "greedy_requests",
  "graph_options",
  "lynx_route", "Router", "Routing", "RoutingPolicy", "parse_policy", "format_policy",
  "TopK", "Auto", "Lynx", "Prune", "CountVote", "OEA", "XShare", "MassFloor", "Budget",
  "Decoder", "abstract_decoder", "DecoderSpec", "LayerSpec", "AttentionSpec", "MLASpec", "MoESpec", "DenseSpec",
]  # fmt: skip


def __getattr__(name: str) -> Any:
  if name == "__version__":
    value = importlib.metadata.version("lynx-jax")
  elif name in _HOME:
    value = getattr(importlib.import_module(f"lynx_jax.{_HOME[name]}"), name)
  else:
    raise AttributeError(f"module 'lynx_jax' has no attribute {name!r}")
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
