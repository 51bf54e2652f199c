"""What the profiler saw a GPU run: every kernel, copy and fill, with its time and the program that launched it."""

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.profiler import ProfileData


class Kernel(NamedTuple):
  """One launch.

  Attributes:
    name: the kernel's; copies and fills are called MemcpyD2D, Memset and the like.
    start: in nanoseconds, on the clock of its trace.
    duration: in nanoseconds.
    module: the compiled program that launched it, such as `jit_step`; None where the trace doesn't say, as may be
      inside CUDA graphs.
  """

  name: str
  start: float
  duration: float
  module: str | None = None

  @property
  def copies(self) -> bool:
    """Whether it copies memory as it is."""
    return self.name.startswith("Memcpy")


@contextlib.contextmanager
def traced() -> Iterator[list[Kernel]]:
  """Profiles what runs inside, which must wait for its results; the list is filled, in order of start, at the end."""
  kernels: list[Kernel] = []
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = options.host_tracer_level = 0
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, profiler_options=options):
      yield kernels
    kernels += read_kernels(Path(folder))


def read_kernels(folder: Path, *, plane: str = "GPU", line: str = "Stream") -> list[Kernel]:
  """The launches of a trace, in order of start: all events of the planes and lines that are named so."""
  found = []
  with warnings.catch_warnings():
    # On Python 3.12 the class of an event's facts warns that it has no __module__.
    warnings.simplefilter("ignore", DeprecationWarning)
    for path in folder.rglob("*.xplane.pb"):
      for one in ProfileData.from_file(str(path)).planes:
        lines = [events for events in one.lines if line in (events.name or "")] if plane in one.name else []
        found += [kernel_of(event) for events in lines for event in events.events]
  return sorted(found, key=lambda kernel: kernel.start)


def kernel_of(event: Any) -> Kernel:
  """A launch of an event that has `name`, `start_ns`, `duration_ns` and `stats`, pairs of a name and a value."""
  modules = [str(value) for name, value in event.stats if name == "hlo_module"]
  # Some versions of XLA append a program's number in brackets.
  module = modules[0].split("(")[0] if modules else ""
  return Kernel(event.name, event.start_ns, event.duration_ns, module or None)
