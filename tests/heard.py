"""What is said aloud: warnings of our loggers, which do not reach pytest's own once a command line has run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("lynx_jax", "checkpoints_convert")


class _Kept(logging.Handler):
  def __init__(self) -> None:
    super().__init__(logging.WARNING)
    self.lines: list[str] = []

  def emit(self, record: logging.LogRecord) -> None:
    self.lines.append(record.getMessage())


@contextmanager
def heard() -> Iterator[list[str]]:
  """The warnings so far, one line each."""
  handler = _Kept()
  for name in LOGGERS:
    logging.getLogger(name).addHandler(handler)
  try:
    yield handler.lines
  finally:
    for name in LOGGERS:
      logging.getLogger(name).removeHandler(handler)
