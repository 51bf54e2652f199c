"""The CPU's own profile in the place of a GPU's: it says as much of each launch."""

import contextlib
import tempfile
from pathlib import Path

import jax

from benchmarks.kernels.gpu_trace import read_kernels


@contextlib.contextmanager
def cpu_traced():
  kernels = []
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level, options.host_tracer_level = 0, 2
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, profiler_options=options):
      yield kernels
    kernels += [kernel for kernel in read_kernels(Path(folder), plane="CPU", line="") if kernel.module]
