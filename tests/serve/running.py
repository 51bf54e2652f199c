"""A server in a thread, for tests that are its clients."""

import contextlib
import dataclasses
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import openai

import lynx_jax
from lynx_jax.engine.engine import Engine
from lynx_jax.engine.paged.step_shape import StepShape
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.models.params import Params
from lynx_jax.serve.served import Served
from lynx_jax.serve.server import Server, listen, url_of
from lynx_jax.serve.settings import ServerSettings
from lynx_jax.text.tokenizer import Tokenizer

MODEL = "tiny"
# All servers of the tests have these sizes, so that they share their compiled programs.
SIZES = EngineSettings(slots=4, context=256, mixed=(64,), policy="auto", stats=True, routing=True, readers=True)
# Exact requests get the same whatever runs beside them.
SERVER = ServerSettings(model=MODEL, quality="exact")


@dataclasses.dataclass(frozen=True)
class Running:
  """A server that takes requests."""

  url: str
  engine: Engine
  server: Server
  openai: openai.OpenAI
  http: httpx.Client

  def idle(self) -> bool:
    """Waits until nothing runs; returns whether nothing is held."""
    wait_until(lambda: self.engine.stats().waiting + self.engine.stats().running == 0)
    stats = self.engine.stats()
    return stats.held_blocks == 0 and not self.engine._answers

  def serves(self) -> bool:
    """Whether a request is answered."""
    # The likeliest token: one that is drawn ends the text now and then, and its reason is then another.
    answer = self.openai.completions.create(model=MODEL, prompt=[5, 6], max_tokens=1, temperature=0)
    return answer.choices[0].finish_reason == "length"


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
  """Waits for what must come, however long it takes on a busy machine; a test that waits for ever fails."""
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, "what must come did not come"
    time.sleep(0.005)


@functools.cache
def params() -> Params:
  """The embedded model; in float32 the order of sums decides no token."""
  return lynx_jax.load(dtype="float32")


def tokenizer() -> Tokenizer:
  """The model's."""
  found = params().tokenizer
  assert found is not None
  return found


@contextlib.contextmanager
def running(
  settings: ServerSettings = SERVER,
  sizes: EngineSettings = SIZES,
  key: str = "none",
  sndbuf: int | None = None,
  model: Params | None = None,
) -> Iterator[Running]:
  """Serves the embedded model, or `model`, while the context lasts."""
  ready = threading.Event()
  listener = listen("127.0.0.1", 0)
  if sndbuf is not None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
  url = url_of(listener)
  with Engine(model or params(), sizes) as engine:

    def progress(shape: StepShape, done: int, total: int) -> None:
      if done == total:
        ready.set()

    server = Server(Served(engine, settings), listener, progress)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
      while not ready.wait(1):
        assert thread.is_alive(), "the server has ended before it was ready"
      headers = {"authorization": f"Bearer {key}"}
      with (
        openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
        httpx.Client(base_url=url, headers=headers, timeout=60) as http,
      ):
        yield Running(url, engine, server, client, http)
    finally:
      server.end()
      server.end()
      thread.join()
