"""A server in a process of its own, while a benchmark asks it."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

_ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def lynx_server(*options: str, seconds: float = 600.0) -> Iterator[tuple[str, int]]:
  """`lynx-jax serve` with these options on a free port; gives its URL and process id, and ends it afterwards.

  It takes requests by then, and may still compile its larger programs. Raises OSError if that takes over `seconds`.
  """
  port = free_port()
  command = [sys.executable, "-m", "lynx_jax.cli", "serve", *options, "--port", str(port), "--quiet"]
  with running(command, f"http://127.0.0.1:{port}", "/ready", seconds) as pid:
    yield f"http://127.0.0.1:{port}", pid


@contextlib.contextmanager
def running(command: Sequence[str], url: str, ready: str, seconds: float) -> Iterator[int]:
  """A server's process, once `ready` answers 200; gives its id. Raises OSError if it ends, or takes longer."""
  process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.DEVNULL)
  try:
    until = time.monotonic() + seconds
    while not _answers(url + ready):
      if process.poll() is not None or time.monotonic() > until:
        raise OSError(f"{' '.join(command)} is not ready at {url}: run it alone to see why")
      time.sleep(0.2)
    yield process.pid
  finally:
    process.terminate()
    try:
      process.wait(timeout=60)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()


def free_port() -> int:
  """A port that nobody listens on now."""
  with socket.socket() as held:
    held.bind(("127.0.0.1", 0))
    return held.getsockname()[1]


def resident_bytes(pid: int) -> int:
  """Memory that a process holds; Linux only."""
  lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
  return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def _answers(url: str) -> bool:
  try:
    return httpx.get(url, timeout=5).status_code == httpx.codes.OK
  except httpx.HTTPError:
    return False
