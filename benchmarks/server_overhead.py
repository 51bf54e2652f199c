"""Processor time that the server takes of a streamed token, beside the engine's own: chunks, events, sockets, metrics.

Clients run in a process of their own. What is counted is the processor time of the event loop's thread, and of the
calls by which the engine's thread hands its pieces over. Other processes change it only through the caches.

The same requests also run on the engine alone, in turns: the last column is the server's pace over the engine's. The
clients' own work is in it.

python -m benchmarks.server_overhead --streams 1,8,16 --tokens 200
"""

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import lynx_jax
from lynx_jax.engine.engine import Engine
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.host.sampling import Sampling
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.platforms import settle_platform
from lynx_jax.serve.served import Served
from lynx_jax.serve.server import Server, listen, url_of
from lynx_jax.serve.settings import ServerSettings

TARGET = 100.0
"""Microseconds of a streamed token."""


class Measured:
  """A server whose threads' processor time is read."""

  def __init__(self, engine: Engine):
    """Serves `engine` until `close`."""
    self.engine = engine
    listener, ready = listen("127.0.0.1", 0), threading.Event()
    self.url = url_of(listener)
    self._handed = 0.0
    self._server = Server(
      Served(engine, ServerSettings(model="bench")), listener, lambda shape, done, total: _set_if(ready, done == total)
    )
    self._thread = threading.Thread(target=self._server.serve_forever)
    deliver = engine._deliver

    def timed(pieces) -> None:
      begin = time.thread_time()
      deliver(pieces)
      self._handed += time.thread_time() - begin

    engine._deliver = timed
    self._thread.start()
    ready.wait()

  def seconds(self) -> tuple[float, float]:
    """Processor time so far of the event loop's thread, and of handing pieces over."""
    assert self._thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident)), self._handed

  def close(self) -> None:
    """Ends the server."""
    self._server.end()
    self._thread.join()


def overhead(measured: Measured, streams: int, tokens: int) -> tuple[float, float, float]:
  """Microseconds a streamed token of the event loop and of handing over, and tokens a second, of one turn."""
  engine = measured.engine
  # All streams begin with the same step, so that every step serves all of them.
  engine.pause()
  command = [sys.executable, "-m", "benchmarks.stream_client", measured.url, str(streams), str(tokens)]
  client = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
  while engine.stats().waiting < streams:
    time.sleep(0.01)
  before, begin = measured.seconds(), time.time()
  engine.resume()
  said, _ = client.communicate()
  if client.returncode:
    raise RuntimeError("the client did not get all of its tokens")
  after, total = measured.seconds(), streams * tokens
  loop, handed = ((now - then) / total * 1e6 for now, then in zip(after, before, strict=True))
  # The client's process takes a while to end.
  return loop, handed, total / (float(said) - begin)


def engine_pace(engine: Engine, streams: int, tokens: int) -> float:
  """Tokens a second of the same requests without a server."""
  # As on the server, each row draws other tokens: rows that draw the same run the same experts, and are faster.
  requests = [
    Request(
      id=engine.new_name(), prompt=(5, 6, 7), max_new_tokens=tokens, ignore_eos=True,
      sampling=Sampling(temperature=1.0, seed=1, stream=stream),
    )
    for stream in range(streams)
  ]  # fmt: skip
  begin = time.perf_counter()
  for answer in engine.submit_all(requests):
    answer.wait()
  return streams * tokens / (time.perf_counter() - begin)


def main(argv: Sequence[str] | None = None) -> int:
  """Prints a table; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--streams", default="1,8,16", help="streams at once (default: %(default)s)")
  parser.add_argument("--tokens", type=int, default=200, help="tokens of a stream (default: %(default)s)")
  parser.add_argument("--repeats", type=int, default=5, help="turns; the median counts (default: %(default)s)")
  parser.add_argument("--model", help="checkpoint directory; the embedded model by default")
  args = parser.parse_args(argv)
  counts = [int(count) for count in args.streams.split(",")]
  settle_platform()
  table = Table(title="Processor time of the server a streamed token, in microseconds")
  for column in ("streams", "event loop", "handing over", "together", "target", "tokens/s", "of the engine's"):
    table.add_column(column, justify="right")
  settings = EngineSettings(slots=max(counts), context=args.tokens + 32)
  missed = False
  with Engine(lynx_jax.load(args.model), settings) as engine:
    measured = Measured(engine)
    for count in counts:
      overhead(measured, count, args.tokens)
      turns = [
        (*overhead(measured, count, args.tokens), engine_pace(engine, count, args.tokens)) for _ in range(args.repeats)
      ]
      loop, handed, pace, alone = (statistics.median(column) for column in zip(*turns, strict=True))
      missed |= loop + handed >= TARGET
      times = (f"{value:.1f}" for value in (loop, handed, loop + handed, TARGET))
      table.add_row(str(count), *times, f"{pace:.0f}", f"{pace / alone:.2f}")
    measured.close()
  Console().print(table)
  return int(missed)


def _set_if(event: threading.Event, ready: bool) -> None:
  if ready:
    event.set()


if __name__ == "__main__":
  sys.exit(main())
