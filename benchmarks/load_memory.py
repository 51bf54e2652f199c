"""Measures the peak of host memory while `load` runs, beside the size of the weights. Each load has its own process.

python -m lynx_jax.testing.random_checkpoint OUT --shard-mb 200
python -m benchmarks.load_memory OUT --dtype bfloat16,float32
python -m benchmarks.load_memory OUT --weights int4
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import add_result_options, keep
from lynx_jax.models.checkpoints import open_model

LOADER = "lynx_jax.loading:load"

# Linux's high-water mark of this process, after a reset. getrusage would not do: it starts at the memory of the parent
# process, and would hide any smaller peak.
_PROGRAM = """
import importlib, json, sys
import jax, orbax.checkpoint

def status(key):
  with open("/proc/self/status") as file:
    return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key + ":"))

path, dtype, weights, loader = sys.argv[1:]
module, name = loader.split(":")
load = getattr(importlib.import_module(module), name)
jax.numpy.zeros(1).block_until_ready()
with open("/proc/self/clear_refs", "w") as file:
  file.write("5")
idle = status("VmRSS")
params = load(path, dtype=dtype or None, **({"weights": weights} if weights else {}))
jax.block_until_ready(params)
held = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
print(json.dumps({"peak": status("VmHWM") - idle, "weights": held}))
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadMemory:
  """One load.

  Attributes:
    dtype: the requested dtype; empty is the checkpoint's own.
    files: bytes of the files of weights.
    weights: bytes of the loaded weights.
    peak: most resident bytes while loading, above those of the process once everything is imported.
  """

  dtype: str
  files: int
  weights: int
  peak: int

  @property
  def ratio(self) -> float:
    """The peak divided by the size of the loaded weights; 1 is no overhead."""
    return self.peak / self.weights


def load_memory(path: Path, dtype: str = "", *, weights: str = "", loader: str = LOADER) -> LoadMemory:
  """Loads `path` in a new process and measures it; needs Linux.

  `loader` names a function by module and name, called as `load` is, with `weights` where that is given. Raises
  ValueError with the last line that the process wrote where it fails.
  """
  with open_model(path) as (_, checkpoint):
    files = sum(file.stat().st_size for file in checkpoint.files())
  command = [sys.executable, "-c", _PROGRAM, str(path), dtype, weights, loader]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode != 0:
    raise ValueError(f"loading {path} as {dtype or 'it is'} failed: {done.stderr.strip().splitlines()[-1:]}")
  return LoadMemory(dtype=dtype, files=files, **json.loads(done.stdout))


def main(argv: Sequence[str] | None = None) -> int:
  """Prints a table, one line a dtype; returns the exit code."""
  from rich.console import Console
  from rich.table import Table

  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("path", type=Path, help="a checkpoint directory")
  parser.add_argument("--dtype", default="", help="dtypes to load, with commas; the checkpoint's own by default")
  parser.add_argument("--weights", default="", help="int8, int4 or float; what the files hold by default")
  add_result_options(parser)
  args = parser.parse_args(argv)
  table = Table(title="Host memory of load, MB; the peak is above an idle process")
  for heading in ("dtype", "files", "weights", "peak", "peak / weights"):
    table.add_column(heading, justify="right")
  try:
    for dtype in args.dtype.split(","):
      found = load_memory(args.path, dtype, weights=args.weights)
      sizes = (f"{size / 1e6:.0f}" for size in (found.files, found.weights, found.peak))
      table.add_row(dtype or "its own", *sizes, f"{found.ratio:.2f}")
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  Console(width=None if sys.stdout.isatty() else 100).print(table)
  about = "Most resident memory while a model loads, each time in a new process, beside the size of the loaded weights."
  keep(args, table, argv, module="benchmarks.load_memory", name="load_memory", about=about)
  return 0


if __name__ == "__main__":
  sys.exit(main())
