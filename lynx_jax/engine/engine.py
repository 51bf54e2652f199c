"""The engine in a thread of its own: requests from any thread, their pieces as they come."""

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from lynx_jax.engine.core import EngineCore, EngineDead, UpdateMode
from lynx_jax.engine.host.request import Finished, Piece, Request
from lynx_jax.engine.host.stats import HostStats
from lynx_jax.engine.paged.step_shape import StepShape
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.models.params import Params


class Answer:
  """What one request gets: an iterator over its pieces, in any thread. Leaving it early does not end the request."""

  def __init__(self, engine: "Engine", request: Request):
    """Made by `Engine.submit`."""
    self.request = request
    self._engine = engine
    self._pieces: queue.SimpleQueue[Piece | BaseException] = queue.SimpleQueue()
    self._ended = False

  def __iter__(self) -> Iterator[Piece]:
    """Pieces up to the last one, which has `finished`.

    Raises:
      EngineDead: the engine has failed.
    """
    while not self._ended:
      piece = self._pieces.get()
      if isinstance(piece, BaseException):
        self._ended = True
        raise piece
      self._ended = piece.finished is not None
      yield piece

  def wait(self) -> tuple[str, tuple[int, ...], Finished]:
    """Waits for the end: the whole text and tokens, as far as no piece was taken before, and how the request ended."""
    pieces = list(self)
    finished = pieces[-1].finished
    assert finished is not None
    tokens = tuple(token for piece in pieces for token in piece.token_ids)
    return "".join(piece.text for piece in pieces), tokens, finished

  def abort(self) -> None:
    """Ends the request; its last piece says `abort`."""
    self._engine.abort(self.request.id)


class Engine:
  """Serves many requests at once, from any thread.

  One thread of the engine's own plans steps, runs them and hands out pieces. A fault in a request ends that request
  alone. If the device fails once, all that ran is computed again; if it fails twice in a row, the engine is dead, and
  every answer raises `EngineDead`.

      with Engine(params, EngineSettings(policy="auto")) as engine:
        for piece in engine.submit(Request(id="a", prompt=ids)):
          print(piece.text, end="")
  """

  def __init__(self, params: Params, settings: EngineSettings = EngineSettings()):  # noqa: B008 (frozen)
    """Allocates the cache and starts the thread. Raises as `EngineCore`."""
    self._core = EngineCore(params, settings)
    self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    self._answers: dict[str, Callable[[Piece | BaseException], None]] = {}
    self._names = itertools.count()
    self._when_idle: list[Callable[[], None]] = []
    self._after_step: list[Callable[[], None]] = []
    # Called once nothing that has started is left; until then nothing else starts.
    self._updates: list[Callable[[], None]] = []
    self._paused = self._closing = False
    self._failure: EngineDead | None = None
    self._thread = threading.Thread(target=self._serve, name="lynx-engine", daemon=True)
    self._thread.start()

  def __enter__(self) -> "Engine":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  @property
  def core(self) -> EngineCore:
    """The engine's state. Its methods belong to the engine's thread; read `log` and `limits` only."""
    return self._core

  @property
  def failure(self) -> EngineDead | None:
    """What killed the engine; None while it lives."""
    return self._failure

  def warm_up(self, progress: Callable[[StepShape, int, int], None] = lambda shape, done, total: None) -> None:
    """Compiles all programs; requests are served meanwhile, by those that are ready."""
    self._check_alive()
    self._core.warm_up(progress)

  def new_name(self) -> str:
    """A request id that this engine has not given out."""
    return f"request-{next(self._names)}"

  def submit(self, request: Request) -> Answer:
    """Lets a request run when its turn comes.

    Raises:
      ValueError: it can never run here.
      Overloaded: too many requests wait, or the engine drains.
      EngineDead: the engine has failed.
    """
    answer = Answer(self, request)
    self.submit_to(request, answer._pieces.put)
    return answer

  def submit_to(self, request: Request, deliver: Callable[[Piece | BaseException], None]) -> None:
    """As `submit`; the engine's thread calls `deliver` with each piece, or with what killed the engine.

    `deliver` must return at once.
    """
    self._do(lambda: self.take(request, deliver))

  def take(self, request: Request, deliver: Callable[[Piece | BaseException], None]) -> None:
    """`submit_to` for code that runs in the engine's thread (`start`)."""
    self._core.submit(request)
    self._answers[request.id] = deliver

  def take_all(self, requests: Sequence[Request], deliver: Callable[[Piece | BaseException], None]) -> None:
    """`take` for several requests: all of them, or none if one of them is refused."""
    taken: list[str] = []
    try:
      for request in requests:
        self.take(request, deliver)
        taken.append(request.id)
    except BaseException:
      for request_id in taken:
        self._core.abort(request_id)
        del self._answers[request_id]
      raise

  def submit_all(self, requests: Sequence[Request]) -> list[Answer]:
    """Submits several requests so that no step is planned between them."""
    answers = [Answer(self, request) for request in requests]

    def submit() -> None:
      for answer in answers:
        self.take(answer.request, answer._pieces.put)

    self._do(submit)
    return answers

  def abort(self, request_id: str) -> None:
    """Ends a request soon, whatever it does; nothing happens if there is none of this name (any more).

    Returns at once; the request's last piece comes at the next boundary between steps.
    """

    def abort() -> None:
      piece = self._core.abort(request_id)
      if piece is not None:
        self._deliver([piece])

    with contextlib.suppress(EngineDead):
      self.start(abort)

  def abort_all(self, deliver: Callable[[Piece | BaseException], None]) -> None:
    """Ends all requests whose pieces go to `deliver`, as `abort` does; others of the same names stay."""

    def abort() -> None:
      ours = [request_id for request_id, one in self._answers.items() if one is deliver]
      pieces = [self._core.abort(request_id) for request_id in ours]
      self._deliver([piece for piece in pieces if piece is not None])

    with contextlib.suppress(EngineDead):
      self.start(abort)

  def pause(self) -> None:
    """Lets requests that have started go on, and starts no other until `resume`."""
    self._do(lambda: self._pause(True))

  def resume(self) -> None:
    """Ends a pause."""
    self._do(lambda: self._pause(False))

  def drain(self, timeout: float | None = None) -> bool:
    """Refuses new requests, and waits until those that were submitted have ended.

    Args:
      timeout: seconds to wait; what has not ended then is aborted. None waits for all.

    Returns:
      Whether all requests came to their own end.
    """
    self._do(self._core.drain)
    done = threading.Event()
    self._do(lambda: self._when_idle.append(done.set))
    if done.wait(timeout):
      return True
    for request_id in list(self._answers):
      self.abort(request_id)
    return False

  def update_weights(self, params: Params, *, mode: UpdateMode = "keep", recompute: bool = True) -> int:
    """Runs all later steps with other weights of the same shapes; nothing is compiled.

    Args:
      params: the new weights.
      mode: what becomes of requests that run, as for `EngineCore.update_weights`: `keep`, `wait` or `abort`.
      recompute: whether requests that go on compute their positions again with the new weights.

    Returns:
      The version of the new weights, which `Finished.weights` names.

    Raises:
      ValueError: the weights have another structure, shape or dtype, or there is no such mode; nothing has changed.
      EngineDead: the engine has failed, or was closed meanwhile.
    """
    updated: Future[int] = Future()

    def update() -> None:
      self._deliver(self._core.update_weights(params, mode=mode, recompute=recompute))
      updated.set_result(self._core.version)

    def begin() -> None:
      if mode != "wait":
        return update()
      self._core.check_weights(params)
      self._updates.append(update)
      self._core.pause()

    self._do(begin)
    return self._result(updated)

  def stats(self) -> HostStats:
    """What is waiting, running, held and cached."""
    return self._do(self._core.stats)

  def close(self) -> None:
    """Aborts what runs, and ends the thread; more calls do nothing."""
    if self._thread.is_alive() and self._failure is None:
      for request_id in list(self._answers):
        self.abort(request_id)
    self._closing = True
    self._inbox.put(lambda: None)
    self._thread.join()

  def call_after_step(self, call: Callable[[], None]) -> None:
    """Has the engine's thread call something whenever it has delivered pieces."""
    self._after_step.append(call)

  def start(self, action: Callable[[], Any]) -> Future[Any]:
    """Has the engine's thread run something between two steps; the future gets what it returns or raises.

    A future that is cancelled before its turn comes runs nothing.

    Raises:
      EngineDead: the engine has failed, or is closed.
    """
    future: Future[Any] = Future()

    def run() -> None:
      if not future.set_running_or_notify_cancel():
        return
      try:
        future.set_result(action())
      except BaseException as error:
        future.set_exception(error)

    self._check_alive()
    self._inbox.put(run)
    return future

  def _do(self, action: Callable[[], Any]) -> Any:
    """As `start`, and waits."""
    return self._result(self.start(action))

  def _result(self, future: Future[Any]) -> Any:
    """What the engine's thread gives a future; EngineDead if it ends before."""
    while True:
      try:
        return future.result(timeout=1.0)
      except TimeoutError:
        if future.done():
          raise
        # The thread may have ended after the action was put into its inbox.
        self._check_alive()

  def _check_alive(self) -> None:
    if self._failure is not None:
      raise EngineDead(str(self._failure)) from self._failure.__cause__
    if not self._thread.is_alive():
      raise EngineDead("the engine is closed")

  def _serve(self) -> None:
    """The thread: events between steps; it sleeps while there is nothing to do."""
    try:
      while not self._closing:
        self._take_events()
        self._deliver(self._core.step())
        self._update_if_nothing_runs()
        if self._when_idle and self._core.idle:
          for call in self._when_idle:
            call()
          self._when_idle.clear()
    except BaseException as error:
      self._die(error)

  def _pause(self, paused: bool) -> None:
    self._paused = paused
    self._core.pause(paused or bool(self._updates))

  def _update_if_nothing_runs(self) -> None:
    """Replaces weights that wait for that, and lets requests start again."""
    if self._updates and not self._core.started:
      for update in self._updates:
        update()
      self._updates.clear()
      self._core.pause(self._paused)

  def _take_events(self) -> None:
    """Runs what is in the inbox; waits for it if there is nothing else to do."""
    waits = self._core.stuck
    while True:
      try:
        event = self._inbox.get(block=waits)
      except queue.Empty:
        return
      event()
      waits = False

  def _deliver(self, pieces: Sequence[Piece]) -> None:
    for piece in pieces:
      deliver = self._answers[piece.request_id]
      if piece.finished is not None:
        del self._answers[piece.request_id]
      deliver(piece)
    for call in self._after_step:
      call()

  def _die(self, error: BaseException) -> None:
    """Tells everyone who waits."""
    dead = error if isinstance(error, EngineDead) else EngineDead(f"the engine's thread has failed: {error!r}")
    if dead is not error:
      dead.__cause__ = error
    self._failure = dead
    answers, self._answers = self._answers, {}
    for deliver in answers.values():
      deliver(dead)
    for call in (*self._after_step, *self._when_idle):
      call()
