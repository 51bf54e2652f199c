"""What all endpoints share: the engine, its model, and whether it takes requests."""

import asyncio
import concurrent.futures
import hashlib
import logging
import math
import threading
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import lynx_jax
from lynx_jax.engine.async_engine import AsyncAnswers, AsyncEngine
from lynx_jax.engine.engine import Engine
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.host.stats import HostStats
from lynx_jax.engine.paged.step_shape import StepShape
from lynx_jax.serve.errors import ApiError, engine_error, overloaded
from lynx_jax.serve.metrics import Metrics
from lynx_jax.serve.settings import ServerSettings
from lynx_jax.text.grammar import Grammars
from lynx_jax.text.token_texts import TokenTexts
from lynx_jax.text.turn_formats import TurnFormat, turn_format

State: TypeAlias = Literal["warming", "ready", "draining"]
Progress: TypeAlias = Callable[[StepShape, int, int], None]
_LONGEST_RETRY = 60.0
_RECENT_STEPS = 256


class _Closed(Exception):  # noqa: N818 (no error)
  """Ends the compilation of programs that nobody needs any more."""


class Served:
  """An engine that is served.

  Attributes:
    engine: what answers.
    settings: of the server.
    state: whether it takes requests.
    metrics: what it has done.
    texts: what tokens stand for; None without a tokenizer.
    turns: how the model writes an assistant's turn.
    marks: special tokens that mark parts of turns.
    fingerprint: of all that decides a text but the request: model, policy, numerics, version of this package.
  """

  def __init__(self, engine: Engine, settings: ServerSettings):
    self.engine, self.settings = engine, settings
    self.params = engine.core.params
    self.tokenizer = self.params.tokenizer
    self.limits = engine.core.limits
    self.texts = None if self.tokenizer is None else TokenTexts(self.tokenizer)
    if self.texts is not None:
      # Looks at every token: now, and not when the first request comes.
      _ = self.texts.longest
    self.turns = self._turn_format()
    self.marks = self._special_marks()
    self._grammars: Grammars | None = None
    self._grammars_lock = threading.Lock()
    self.state: State = "warming"
    self.fingerprint = _fingerprint(engine)
    self.metrics = Metrics(engine.core.log)
    # Templates and tokenizers may take long: not on the event loop, and few at a time.
    self._texts_pool = concurrent.futures.ThreadPoolExecutor(2, "lynx-text")
    self._async: AsyncEngine | None = None
    self._stats: HostStats | None = None
    self._warmed: int | None = None
    self._warming: threading.Thread | None = None
    self._closed = False
    self._on_failure: Callable[[], None] | None = None

  def start(self, progress: Progress = lambda shape, done, total: None) -> None:
    """Begins to serve in the running event loop, and compiles the programs in a thread."""
    self._async = AsyncEngine(self.engine)
    self.engine.call_after_step(self._after_step)

    def note(shape: StepShape, done: int, total: int) -> None:
      if self._closed:
        raise _Closed
      # With a program of each kind every plan can run; the others only make small plans faster.
      if done >= min(2, total) and self.state == "warming":
        self.state = "ready"
      progress(shape, done, total)

    def warm_up() -> None:
      try:
        self.engine.warm_up(note)
        self._warmed = len(self.engine.core.programs_ready)
      except _Closed:
        pass
      except Exception as error:
        self._fail(error)

    self._warming = threading.Thread(target=warm_up, name="lynx-warm-up", daemon=True)
    self._warming.start()

  def when_failed(self, call: Callable[[], None]) -> None:
    """Has `call` called, in any thread, once the engine is dead or its programs cannot be compiled."""
    self._on_failure = call

  def close(self) -> None:
    """Ends the threads that read prompts, and the one that compiles programs after the one that it has begun."""
    self._closed = True
    self._texts_pool.shutdown(wait=False, cancel_futures=True)

  def wait(self) -> None:
    """After `close`: waits for the thread that compiles. A process that ends in the middle of a compilation aborts."""
    if self._warming is not None:
      self._warming.join()

  async def in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
    """Runs something long beside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(self._texts_pool, call, *arguments)

  def grammars(self) -> Grammars:
    """What makes grammars for this model. The first call reads the vocabulary, which can take a second.

    Raises:
      ApiError: llguidance is not installed.
    """
    assert self.tokenizer is not None
    with self._grammars_lock:
      if self._grammars is None:
        try:
          self._grammars = Grammars(self.tokenizer, self.params.spec.vocab)
        except ImportError as error:
          raise ApiError(501, str(error), code="not_installed") from error
      return self._grammars

  async def submit(self, requests: list[Request]) -> AsyncAnswers:
    """Lets requests run, all or none.

    Raises:
      ApiError: the server takes none now, or one of them can never run here.
    """
    self.check_open()
    assert self._async is not None
    try:
      return await self._async.submit(requests)
    except Exception as error:
      # How long the queue is now decides when to come back.
      await self.stats()
      raise engine_error(error, self.retry_after) from error

  def check_open(self) -> None:
    """Raises ApiError unless the server takes requests now."""
    if self.engine.failure is not None:
      raise engine_error(self.engine.failure, self.retry_after)
    if self.state == "warming":
      raise overloaded("the server compiles its programs: wait until /ready says so", 1.0)
    if self.state == "draining":
      raise overloaded("the server ends: send the request to another", self.settings.drain_seconds)

  def check_model(self, model: str | None) -> None:
    """Raises ApiError unless the model is this one."""
    if model is not None and model != self.settings.model:
      message = f"model is {model[:200]!r}: this server has {self.settings.model!r}"
      raise ApiError(404, message, param="model", code="model_not_found")

  @property
  def room(self) -> int:
    """Positions of a request at most: its prompt and new tokens but the last."""
    return min(self.limits.context, self.limits.blocks * self.limits.block_size)

  @property
  def retry_after(self) -> float:
    """Seconds after which the queue should be shorter, by the pace of recent steps."""
    steps, seconds = self.metrics.pace(_RECENT_STEPS)
    waiting = 0 if self._stats is None else self._stats.waiting_tokens
    return min(max(1.0, math.ceil(waiting * seconds / steps) if steps else 1.0), _LONGEST_RETRY)

  @property
  def compiled_late(self) -> int:
    """Programs that were compiled after the warm-up had ended; the engine needs none."""
    return 0 if self._warmed is None else len(self.engine.core.programs_ready) - self._warmed

  async def stats(self, seconds: float = 1.0) -> HostStats | None:
    """What the engine holds now; what was last known if it does not say so soon."""
    if self.engine.failure is None:
      asked = asyncio.wrap_future(self.engine.start(self.engine.core.stats))
      await asyncio.wait((asked,), timeout=seconds)
      if asked.done() and asked.exception() is None:
        self._stats = asked.result()
    return self._stats

  def _turn_format(self) -> TurnFormat:
    template = None if self.tokenizer is None else self.tokenizer.chat_template
    settings = self.settings
    return turn_format(template, self.params.spec.family, settings.tool_format, settings.reasoning_format)

  def _special_marks(self) -> frozenset[int]:
    if self.tokenizer is None:
      return frozenset()
    found = {self.tokenizer.token_id(mark) for mark in self.turns.marks}
    return self.tokenizer.special_ids.intersection(found)

  def _after_step(self) -> None:
    """In the engine's thread."""
    self.metrics.note_steps()
    if self.engine.failure is not None:
      self._fail(self.engine.failure)

  def _fail(self, error: Exception) -> None:

    logging.getLogger(__name__).error("the server ends: %s", error, exc_info=error)
    if self._on_failure is not None:
      self._on_failure()


def _fingerprint(engine: Engine) -> str:
  core = engine.core
  tokenizer = core.params.tokenizer
  decisive = (
    lynx_jax.__version__, core.params.spec, str(core.params.decoder.dtype), core.settings.policy, core.settings.step_ms,
    None if tokenizer is None else tokenizer.fingerprint,
  )  # fmt: skip
  return "lynx_" + hashlib.sha256(repr(decisive).encode()).hexdigest()[:12]
