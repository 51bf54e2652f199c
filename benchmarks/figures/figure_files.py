"""Measures each figure into NAME.json and draws NAME.png from it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import confidence, expert_use, latency, quality
from checkpoints_convert.files import write_json
from lynx_jax.evals.mixes import cut, mixed
from lynx_jax.evals.text_files import read_texts, token_streams
from lynx_jax.models.params import Params

NAMES = ("batch_latency", "expert_latency", "expert_use", "confidence", "quality", "trade")
_TEXT_FIGURES = ("expert_use", "confidence", "quality")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
  """What to measure and draw.

  Attributes:
    out: the folder to write to.
    only: which of `NAMES`.
    texts: files of text for the figures of quality.
    batch: rows that decode together.
    batches: numbers of rows of `batch_latency`.
    windows: batches of text.
    length: tokens a row of text.
    redraw: draw from the .json files that are there.
  """

  out: Path
  only: tuple[str, ...] = NAMES
  texts: tuple[Path, ...] = ()
  batch: int = 16
  batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
  windows: int = 8
  length: int = 128
  redraw: bool = False

  def __post_init__(self) -> None:
    if unknown := set(self.only) - set(NAMES):
      raise ValueError(f"unknown figure {', '.join(sorted(unknown))}: choose from {', '.join(NAMES)}")
    if not self.redraw and not self.texts and (needing := [name for name in self.only if name in _TEXT_FIGURES]):
      raise ValueError(f"figures {', '.join(needing)} judge text: give --text files, or leave them out of --only")


def make_figures(
  load_text_model: Callable[[], Params],
  load_bench_model: Callable[[], Params],
  figures: Figures,
  progress: Callable[[str], None],
) -> list[Path]:
  """Measures (unless `redraw`) and draws; returns the pictures.

  Args:
    load_text_model: the model whose quality is judged.
    load_bench_model: the model that is timed; one that is bound by memory says most.
    figures: what to do.
    progress: called with a line on what is being done.
  """
  figures.out.mkdir(parents=True, exist_ok=True)
  if not figures.redraw:
    _measure_times(load_bench_model, figures, progress)
    _measure_text(load_text_model, figures, progress)
  pictures = []
  for name in figures.only:
    progress(f"drawing {name}")
    pictures.append(figures.out / f"{name}.png")
    if name == "trade":
      quality.draw_trade(_read(figures, "quality"), _read(figures, "expert_latency"), pictures[-1])
    else:
      _DRAW[name](_read(figures, name), pictures[-1])
  return pictures


_DRAW: dict[str, Callable[[Any, Path], None]] = {
  "batch_latency": latency.draw_batches,
  "expert_latency": latency.draw_experts,
  "expert_use": expert_use.draw_use,
  "confidence": confidence.draw_confidence,
  "quality": quality.draw_quality,
}


def _measure_times(load: Callable[[], Params], figures: Figures, progress: Callable[[str], None]) -> None:
  if not {"batch_latency", "expert_latency"} & set(figures.only):
    return
  params = load()
  if "batch_latency" in figures.only:
    _write(figures, "batch_latency", latency.measure_batches(params, figures.batches, progress))
  if "expert_latency" in figures.only:
    _write(figures, "expert_latency", latency.measure_experts(params, figures.batch, progress))


def _measure_text(load: Callable[[], Params], figures: Figures, progress: Callable[[str], None]) -> None:
  if not set(_TEXT_FIGURES) & set(figures.only):
    return
  params = load()
  windows = cut(token_streams(params, read_texts(figures.texts)), figures.length)
  batches = [windows.tokens[rows] for rows in mixed(windows, figures.batch, figures.windows)]
  if not batches:
    raise ValueError(f"the texts make no batch of {figures.batch} rows of {figures.length} tokens: give more text")
  if "expert_use" in figures.only:
    progress("use of experts")
    _write(figures, "expert_use", expert_use.measure_use(params, batches))
  if "confidence" in figures.only:
    progress("sure against unsure tokens")
    _write(figures, "confidence", confidence.measure_confidence(params, batches))
  if "quality" in figures.only:
    _write(figures, "quality", quality.measure_quality(params, batches, progress))


def _write(figures: Figures, name: str, found: Any) -> None:
  write_json(figures.out / f"{name}.json", found)


def _read(figures: Figures, name: str) -> Any:
  return read_figure(figures.out, name)


def read_figure(out: Path, name: str) -> Any:
  """What was measured for a figure; ValueError where it was not."""
  path = out / f"{name}.json"
  if not path.exists():
    raise ValueError(f"{path} does not exist: measure it first, with --only {name}")
  return json.loads(path.read_text(encoding="utf-8"))
