"""Counts what XLA compiles in some stretch of a program."""

from types import TracebackType

import jax


class Compilations:
  """A context in which every compilation is counted, those included that JAX's compilation cache shortens.

  JAX itself reports them, so nothing that compiles can go unseen. Executables that the engine keeps on the disk are
  loaded, and not compiled.

  Attributes:
    count: so far.
  """

  def __init__(self) -> None:
    self.count = 0

  def __enter__(self) -> "Compilations":
    jax.monitoring.register_event_duration_secs_listener(self._hear)
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    jax.monitoring.unregister_event_duration_listener(self._hear)

  def _hear(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
    self.count += event == "/jax/core/compile/backend_compile_duration"
