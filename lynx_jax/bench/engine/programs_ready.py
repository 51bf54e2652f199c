"""How long an engine takes to have its programs: compiled, and taken from the disk."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import jax

from lynx_jax.bench.engine.compilations import Compilations
from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.paged.executables import forget_executables
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.models.params import Params
from pallas_kernels.checks import require


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProgramsReady:
  """Two warm-ups of the same engine.

  Attributes:
    programs: of the engine.
    compile_seconds: to trace, compile and keep them.
    disk_seconds: to have them again from the disk.
    ratio: the disk's time over the compiler's.
    compiled_from_disk: programs that XLA compiled in the second warm-up; 0 if the disk had them all.
  """

  programs: int
  compile_seconds: float
  disk_seconds: float
  ratio: float
  compiled_from_disk: int


def programs_ready(
  params: Params,
  settings: EngineSettings,
  directory: Path,
  *,
  clock: Callable[[], float] = time.perf_counter,
) -> ProgramsReady:
  """Warms an engine up twice; both times this process has forgotten all programs and traces before.

  Args:
    params: the model.
    settings: of the engine.
    directory: an empty one; programs are kept there.
    clock: seconds.

  Raises:
    ValueError: JAX's compilation cache is on, so that compiling would not be timed.
  """
  cache = jax.config.values["jax_compilation_cache_dir"]
  require(not cache, "jax_compilation_cache_dir", cache, "none while compiling is timed", "turn JAX's cache off")
  settings = dataclasses.replace(settings, programs=directory)
  compile_seconds, _, programs = _warm_up(params, settings, clock)
  disk_seconds, compiled, _ = _warm_up(params, settings, clock)
  return ProgramsReady(
    programs=programs,
    compile_seconds=compile_seconds,
    disk_seconds=disk_seconds,
    ratio=disk_seconds / compile_seconds,
    compiled_from_disk=compiled,
  )


def _warm_up(params: Params, settings: EngineSettings, clock: Callable[[], float]) -> tuple[float, int, int]:
  """Seconds of a warm-up, what XLA compiled in it, and the engine's programs."""
  forget_executables()
  jax.clear_caches()
  core, seen = EngineCore(params, settings), []
  with Compilations() as compilations:
    begin = clock()
    core.warm_up(lambda shape, done, total: seen.append(shape))
    seconds = clock() - begin
  return seconds, compilations.count, len(seen)
