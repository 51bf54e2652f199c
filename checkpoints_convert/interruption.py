"""How the command lines end a conversion that is interrupted: in order, with one line."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_CTRL_C, _TERMINATED = 130, 143


class _Terminated(BaseException):
  """SIGTERM came."""


@contextlib.contextmanager
def interruptible(program: str, destination: str | Path) -> Iterator[None]:
  """Lets Ctrl-C and SIGTERM end the block, whose cleaning up is waited for, and the program.

  Prints one line that says what became of `destination`, and exits with 130 or 143, as a shell has it.
  """

  def terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated

  with contextlib.ExitStack() as stack:
    if threading.current_thread() is threading.main_thread():
      stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, terminate))
    try:
      yield
    except (KeyboardInterrupt, _Terminated) as error:
      print(f"{program}error: interrupted: nothing was written to {destination}", file=sys.stderr)
      sys.exit(_TERMINATED if isinstance(error, _Terminated) else _CTRL_C)
