"""The engine's opponent: the same requests in fixed batches, each padded and run to its longest output."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lynx_jax.bench.engine.compilations import Compilations
from lynx_jax.bench.engine.load import TimedRequest, positions_of
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.programs import compiled_decode_loop, compiled_prefill
from lynx_jax.engine.sampling import samplers
from lynx_jax.engine.state import DecodeState, Requests
from lynx_jax.models.params import Params
from lynx_jax.models.sizes import cache_bytes
from lynx_jax.routing import RoutingPolicy

PROMPT_STEP = 16


@dataclasses.dataclass(kw_only=True)
class StaticRun:
  """What a load got in fixed batches. Times are seconds after its start.

  Attributes:
    seconds: until the last batch ended.
    first_token: seconds from each request's arrival to the end of its batch's prefill, by its name.
    tokens: what each request got.
    row_steps: rows times tokens of the longest output, summed over batches; rows that have ended go on to the end.
    compiled: programs that were compiled meanwhile.
  """

  seconds: float
  first_token: dict[str, float]
  tokens: dict[str, list[int]]
  row_steps: int
  compiled: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
  """Rows that are read and decoded together.

  Attributes:
    starts: seconds after the load's start at which the last of its requests arrives.
    requests: of its rows.
    token_ids: prompts [B, L], padded on the right.
    lengths: tokens of each prompt [B].
    asked: how rows draw, and how many tokens.
  """

  starts: float
  requests: tuple[Request, ...]
  token_ids: jax.Array
  lengths: jax.Array
  asked: Requests


def make_batch(timed: Sequence[TimedRequest], step: int = PROMPT_STEP) -> Batch:
  """Requests as one batch, padded to its longest prompt, rounded up to a multiple of `step`."""
  requests = tuple(one.request for one in timed)
  lengths = np.array([len(request.prompt) for request in requests], np.int32)
  padded = np.zeros((len(requests), -(-int(lengths.max()) // step) * step), np.int32)
  for row, request in enumerate(requests):
    padded[row, : lengths[row]] = request.prompt
  asked = Requests(
    samplers=samplers([request.sampling for request in requests], len(requests)),
    max_new_tokens=jnp.asarray(np.array([request.max_new_tokens for request in requests], np.int32)),
    stop_ids=jnp.full((len(requests), 1), -1, jnp.int32),
  )
  starts = max(one.at for one in timed)
  return Batch(
    starts=starts, requests=requests, token_ids=jnp.asarray(padded), lengths=jnp.asarray(lengths), asked=asked
  )


def static_cache_bytes(params: Params, timed: Sequence[TimedRequest], rows: int) -> int:
  """Bytes of the cache of a batch of `rows`: room for the longest request in each."""
  return rows * positions_of(timed) * cache_bytes(params.spec, params.decoder.dtype)


class StaticBatches:
  """A load in batches of `rows` requests in the order of their arrival, by `prefill` and `decode_loop`.

  A batch starts when all its requests have arrived and the batch before has ended. Prompts are padded to multiples of
  16 positions, and the cache has room for the longest request of the whole load. So few programs serve all batches,
  and `warm_up` compiles them all. Nothing is spent on text.
  """

  def __init__(self, params: Params, timed: Sequence[TimedRequest], *, rows: int, policy: RoutingPolicy | None):
    """Lays out the batches; the last one may have fewer rows."""
    self._params, self._policy = params, policy
    self.batches = [make_batch(timed[start : start + rows]) for start in range(0, len(timed), rows)]
    self._arrived = {request.id: at for at, request in timed}
    self.capacity = max(positions_of(timed), *(batch.token_ids.shape[1] for batch in self.batches), 1)

  def warm_up(self) -> None:
    """Runs one batch of each shape for one step."""
    for batch in {batch.token_ids.shape: batch for batch in self.batches}.values():
      jax.block_until_ready(self._decode(self._prefill(batch), 1))

  def run(
    self, *, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep
  ) -> StaticRun:
    """All batches, one after the other.

    Raises:
      RuntimeError: a request did not get all its tokens.
    """
    run = StaticRun(seconds=0.0, first_token={}, tokens={}, row_steps=0, compiled=0)
    with Compilations() as compilations:
      begin = clock()
      for batch in self.batches:
        sleep(max(0.0, batch.starts - (clock() - begin)))
        state = jax.block_until_ready(self._prefill(batch))
        first = clock() - begin
        state = self._decode(state, self.capacity)
        output, generated = np.asarray(state.output), np.asarray(state.generated)
        for row, request in enumerate(batch.requests):
          run.first_token[request.id] = first - self._arrived[request.id]
          run.tokens[request.id] = output[row, : generated[row]].tolist()
        run.row_steps += len(batch.requests) * max(request.max_new_tokens for request in batch.requests)
      run.seconds = clock() - begin
    run.compiled = compilations.count
    self._check_lengths(run)
    return run

  def _prefill(self, batch: Batch) -> DecodeState:
    return compiled_prefill(self._params, batch.token_ids, batch.lengths, self.capacity, batch.asked)

  def _decode(self, state: DecodeState, steps: int) -> DecodeState:
    return compiled_decode_loop(self._params, state, policy=self._policy, max_steps=np.int32(steps))

  def _check_lengths(self, run: StaticRun) -> None:
    for request in (request for batch in self.batches for request in batch.requests):
      got = len(run.tokens[request.id])
      if got != request.max_new_tokens:
        raise RuntimeError(f"request {request.id} got {got} of {request.max_new_tokens} tokens in its batch")
