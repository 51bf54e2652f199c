"""Reads that Orbax gives up beside one that failed, which would bury the error in complaints of their own."""

import functools
import logging
import sys
import threading


@functools.cache
def silence_abandoned_reads() -> None:
  """Drops those complaints for the rest of the process: for programs, which own their hooks and their logs.

  At a damaged file Orbax closes its event loop under the other reads. TensorStore's threads then report each to
  `sys.unraisablehook`, and asyncio logs each failure that nobody waited for. All other reports pass.
  """
  inherited = sys.unraisablehook

  def hook(report: "sys.UnraisableHookArgs") -> None:
    closed = isinstance(report.exc_value, RuntimeError) and str(report.exc_value) == "Event loop is closed"
    if not closed or threading.current_thread() is threading.main_thread():
      inherited(report)

  sys.unraisablehook = hook
  logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())
