"""Measures how often each expert is used, over a data set and in one decode step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from benchmarks.figures.plot import drawn
from lynx_jax.evals.decoding import own_traces, whole_rows
from lynx_jax.models.params import Params
from pallas_kernels.lynx_route.expert_sets import chosen_by_row


def measure_use(params: Params, batches: Sequence[Int32[np.ndarray, "B L"]]) -> dict[str, Any]:
  """Shares of assignments by layer and expert: over all of `batches`, and in one step of the first."""
  first = _host_uses(params, batches[0])
  one_step = first[:, :, first.shape[2] // 2].sum(axis=1)
  whole = first.sum(axis=(1, 2)) + sum(_host_uses(params, tokens).sum(axis=(1, 2)) for tokens in batches[1:])
  return {
    "tokens": int(sum(tokens.size for tokens in batches)),
    "rows": int(batches[0].shape[0]),
    "data_set": (whole / whole.sum(axis=1, keepdims=True)).tolist(),
    "one_step": (one_step / one_step.sum(axis=1, keepdims=True)).tolist(),
  }


def _host_uses(params: Params, tokens: Int32[np.ndarray, "B L"]) -> Float[np.ndarray, "N B P E"]:
  return np.stack([np.asarray(use) for use in _uses(params, jnp.asarray(tokens))])


@jax.jit
def _uses(params: Params, tokens: jax.Array) -> list[jax.Array]:
  """Returns one float32 mask [B, P, E] for each layer: which experts each row runs at each position."""
  texts = whole_rows(tokens)
  return [
    chosen_by_row(trace.routing.ids, trace.logits.shape[1]).reshape(*texts.inputs.shape, -1).astype(jnp.float32)
    for trace in own_traces(params, texts)
  ]


def draw_use(found: dict[str, Any], path: Path) -> None:
  """Two heat maps on one scale: shares relative to an even one."""
  with drawn(path, panels=2, height=3.2) as panels:
    for axes, name, title in (
      (panels[0], "data_set", f"over {found['tokens']} tokens"),
      (panels[1], "one_step", f"in one decode step of {found['rows']} rows"),
    ):
      shares = np.array(found[name])
      image = axes.imshow(shares * shares.shape[1], aspect="auto", vmin=0, vmax=4, cmap="magma")
      axes.set(xlabel="expert", ylabel="layer", title=title)
    panels[1].figure.colorbar(image, ax=panels, label="use, of an even share")
