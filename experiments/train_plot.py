"""Draws a run's log: the loss, and how much each layer's experts were used. Needs matplotlib (the extra `plots`).

python -m experiments.train_plot --run .work/tiny --out .work/tiny.png
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def draw(run: Path, out: Path) -> None:
  """Writes a picture of `run`'s log.

  Raises:
    ValueError: the log is empty.
  """
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
  steps = [line for line in log if "cross_entropy" in line]
  if not steps:
    raise ValueError(f"{run}/log.jsonl holds no step: train for 20 steps or more")
  valid = [line for line in log if "validation_loss" in line]
  layers = len(steps[0]["load"])
  figure, (losses, loads) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
  losses.plot(*_columns(steps, "cross_entropy"), color="0.75", linewidth=0.8, label="a batch")
  losses.plot(*_columns(valid, "validation_loss"), color="tab:blue", label="validation")
  losses.set(xlabel="step", ylabel="cross-entropy, nats a token", ylim=(None, float(np.log(4096))))
  losses.legend()
  for layer in range(layers):
    share = np.array([[min(line["load"][layer]), max(line["load"][layer])] for line in steps])
    even = len(steps[0]["load"][layer])
    colour = plt.colormaps["viridis"](layer / max(1, layers - 1))
    smooth = _smoothed(share * even)
    at = [line["step"] for line in steps][len(steps) - len(smooth) :]
    loads.plot(at, smooth[:, 0], color=colour)
    loads.plot(at, smooth[:, 1], color=colour, label=f"layer {layer}")
  loads.axhline(1, color="0.6", linewidth=0.8)
  loads.set(xlabel="step", ylabel="least and most used expert, of an even share")
  loads.legend(fontsize="small")
  figure.savefig(out, dpi=120)
  plt.close(figure)


def _columns(lines: list[dict], name: str) -> tuple[list[int], list[float]]:
  return [line["step"] for line in lines], [line[name] for line in lines]


def _smoothed(values: np.ndarray, window: int = 10) -> np.ndarray:
  """Running means; as many as there are full windows."""
  window = min(window, len(values))
  sums = np.cumsum(np.concatenate([np.zeros((1, values.shape[1])), values]), axis=0)
  return (sums[window:] - sums[:-window]) / window


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints and log")
  parser.add_argument("--out", type=Path, required=True, help="picture to write, .png or .svg")
  arguments = parser.parse_args(argv)
  draw(arguments.run, arguments.out)


if __name__ == "__main__":
  main()
