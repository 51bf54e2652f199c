"""A load: requests of random lengths and tokens, each with the time at which it arrives."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lynx_jax.bench.arrivals import AllAtOnce, Arrivals
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.host.sampling import Sampling
from lynx_jax.engine.host.step_plan import BLOCK_SIZE
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.models.spec import DecoderSpec
from pallas_kernels.checks import field_of, number_fields, refusal, require, whole_fields, whole_number


class TimedRequest(NamedTuple):
  """A request, and when it arrives.

  Attributes:
    at: seconds after the start of the load.
    request: what is asked.
  """

  at: float
  request: Request


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Load:
  """Requests that are drawn at random; the same seed gives the same requests.

  Stop tokens are ignored, so that every output has exactly its length. Tokens are drawn at temperature 1, because
  the likeliest tokens of random weights soon repeat, and so do their experts.

  Attributes:
    requests: how many.
    prompt: tokens of the shortest and of the longest prompt; lengths between them are equally likely.
    output: new tokens of the shortest and of the longest output, likewise.
    arrivals: when they come.
    temperature: of sampling.
    seed: of lengths, tokens and times.
  """

  requests: int = 200
  prompt: tuple[int, int] = (16, 512)
  output: tuple[int, int] = (16, 256)
  arrivals: Arrivals = AllAtOnce()  # noqa: RUF009 (frozen)
  temperature: float = 1.0
  seed: int = 0

  def __post_init__(self) -> None:
    whole_fields(self, "requests", least=1)
    whole_fields(self, "seed", least=0, most=2**32 - 1)
    number_fields(self, "temperature", least=0)
    for field in ("prompt", "output"):
      where, (least, most) = field_of(self, field), getattr(self, field)
      least, most = whole_number(where, least, least=1), whole_number(where, most, least=1)
      require(least <= most, where, (least, most), "the smaller length first")
      object.__setattr__(self, field, (least, most))

  def timed_requests(self, vocab: int) -> list[TimedRequest]:
    """The requests in the order of their arrival, named by their places; `vocab` is the number of token ids."""
    random = np.random.default_rng(self.seed)
    times = self.arrivals.times(self.requests, random)
    prompts, outputs = (
      random.integers(*ends, size=self.requests, endpoint=True) for ends in (self.prompt, self.output)
    )
    return [
      TimedRequest(
        float(at),
        Request(
          id=str(index),
          prompt=tuple(random.integers(vocab, size=length).tolist()),
          max_new_tokens=int(output),
          sampling=Sampling(temperature=self.temperature, seed=self.seed, stream=index),
          ignore_eos=True,
        ),
      )
      for index, (at, length, output) in enumerate(zip(times, prompts, outputs, strict=True))
    ]


def positions_of(timed: Sequence[TimedRequest]) -> int:
  """Positions of the longest request, prompt and output."""
  return max(len(request.prompt) + request.max_new_tokens for _, request in timed)


def with_context(settings: EngineSettings, positions: int, spec: DecoderSpec) -> EngineSettings:
  """Settings of an engine that holds sequences of so many positions.

  A larger context that is set already stays, so that several measurements share their programs; a new one is whole
  blocks, where the model allows it.

  Raises:
    ValueError: the model was made for fewer positions.
  """
  remedy = f"the model was made for {spec.context} positions; choose shorter prompts or outputs"
  require(positions <= spec.context, "positions of a request", positions, f"at most {spec.context}", remedy)
  if settings.context is not None and settings.context >= positions:
    return settings
  return dataclasses.replace(settings, context=min(-(-positions // BLOCK_SIZE) * BLOCK_SIZE, spec.context))


def parse_lengths(where: str, text: str) -> tuple[int, int]:
  """A range of lengths from text: `16:512`, or `128` for one length.

  Raises:
    ValueError: another text.
  """
  try:
    least, _, most = text.partition(":")
    return int(least), int(most or least)
  except ValueError:
    raise refusal(where, text, "a length such as 128, or a range such as 16:512") from None
