"""What a step has drawn and counted, as it travels back to the host in one array."""

from typing import Any

import jax
from jaxtyping import Array, Int32

from lynx_jax.engine.paged.layout import Layout, NamedShape
from lynx_jax.engine.paged.step_shape import StepShape
from lynx_jax.engine.paged.steps import MOST_TOP_LOGPROBS, Likely, StepOutputs, StepSettings
from lynx_jax.models.spec import DecoderSpec


def result_layout(shape: StepShape, spec: DecoderSpec, settings: StepSettings) -> Layout:
  """Where each result that every step returns lies in the packed array."""
  draws, layers = shape.draws, len(spec.moe_layers)
  drawn: list[NamedShape] = [("ids", (draws,), "int"), ("finite", (draws,), "flag"), ("alive", (draws,), "flag")]
  counts: list[NamedShape] = [("rows", (), "int"), ("active", (layers,), "int")]
  compared: list[NamedShape] = [
    ("own", (layers,), "int"),
    ("retained", (layers,), "float"),
    ("worst", (layers,), "float"),
  ]
  counts += compared if settings.stats and layers else []
  if settings.readers and layers:
    counts.append(("readers", (layers, max(moe.experts for moe in spec.moe_specs)), "int"))
  return Layout([*drawn, *likely_fields(shape.draws, spec), *counts])


def likely_fields(rows: int, spec: DecoderSpec) -> list[NamedShape]:
  """The fields of `Likely` for that many rows."""
  most = min(MOST_TOP_LOGPROBS, spec.vocab)
  return [("chosen", (rows,), "float"), ("top_ids", (rows, most), "int"), ("top_logprobs", (rows, most), "float")]


def pack_outputs(outputs: StepOutputs, layout: Layout) -> Int32[Array, "I"]:
  """The results that every step returns in one array, inside a program."""
  parts: dict[str, Any] = outputs._asdict() | outputs.counts._asdict()
  return layout.pack(parts | _parts(outputs.likely))


def pack_prompts(outputs: StepOutputs, layout: Layout) -> Int32[Array, "I"] | None:
  """The log-probabilities of the prompts' tokens in one array, inside a program."""
  return None if outputs.prompts is None else layout.pack(_parts(outputs.prompts))


def _parts(likely: Likely) -> dict[str, jax.Array]:
  return {"chosen": likely.chosen, "top_ids": likely.ids, "top_logprobs": likely.logprobs}
