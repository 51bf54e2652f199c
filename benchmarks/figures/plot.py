"""Shared by all figures: matplotlib without a display, and files that are written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from checkpoints_convert.files import replacing

COLOURS = {
  "auto": "tab:red", "lynx": "tab:blue", "oea": "tab:green", "xshare": "tab:purple", "mass_floor": "tab:orange",
  "budget": "tab:brown", "count_vote": "tab:gray", "prune": "black",
}  # fmt: skip


@contextmanager
def drawn(path: Path, panels: int = 1, width: float = 5.5, height: float = 4.0) -> Iterator[list[Any]]:
  """Axes side by side, saved to `path` at the end.

  Raises:
    ImportError: matplotlib is not installed; says how to get it.
  """
  try:
    import matplotlib
  except ImportError as error:
    raise ImportError("figures need matplotlib: pip install 'lynx-jax[plots]'") from error
  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(1, panels, figsize=(width * panels, height), layout="constrained", squeeze=False)
  yield list(axes[0])
  with replacing(path) as temporary:
    figure.savefig(temporary, dpi=120)
  plt.close(figure)
