"""Silences what Python prints about reads that Orbax abandoned, so that a damaged file is one line of error."""

import functools
import logging
import sys
import threading


@functools.cache
def silence_abandoned_reads() -> None:
  """Drops reports of abandoned reads for the rest of the process. For programs only: a library owns no hooks.

  Orbax reads many arrays at once in one event loop. Where one read fails, Orbax raises that error, which is the one to
  show, and closes the loop while other reads still run. Each of those then fails too, with nobody to tell:

  - TensorStore's threads call back into the closed loop. Python hands the RuntimeError "Event loop is closed" to
    `sys.unraisablehook`, which prints a traceback. There is no other place to catch it: the threads are TensorStore's.
  - asyncio logs "exception was never retrieved" for each read whose result nobody awaited.

  Only these two are dropped, the first only in threads other than the main one. All other reports pass.
  """
  inherited = sys.unraisablehook

  def hook(report: "sys.UnraisableHookArgs") -> None:
    closed = isinstance(report.exc_value, RuntimeError) and str(report.exc_value) == "Event loop is closed"
    if not closed or threading.current_thread() is threading.main_thread():
      inherited(report)

  sys.unraisablehook = hook
  logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())
