"""What clients saw of a load, as figures."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from lynx_jax.bench.serve.client import Observed
from pallas_kernels.checks import refusal

BOUNDED = ("ttft", "itl", "tpot", "e2e")
"""What an objective can bound."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
  """Times in milliseconds: their mean and percentiles."""

  mean: float
  p50: float
  p90: float
  p99: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServeFigures:
  """One load.

  Attributes:
    requests: that were sent.
    failed: that got an error or half an answer, by what they were told.
    seconds: from the start to the end of the last answer.
    prompt_tokens, output_tokens: of the requests that did not fail, as the server counted them.
    tokens_per_second: new tokens.
    requests_per_second: answers.
    ttft_ms: from sending to the first chunk with tokens.
    itl_ms: between chunks with tokens of an answer, over all of them; a chunk may bring several tokens.
    tpot_ms: from the first to the last chunk of an answer, over its tokens after the first; one number a request.
    e2e_ms: from sending to the end.
    good: requests within all objectives; None without objectives.
    goodput: of them a second.
  """

  requests: int
  failed: Mapping[str, int]
  seconds: float
  prompt_tokens: int
  output_tokens: int
  tokens_per_second: float
  requests_per_second: float
  ttft_ms: Spread | None
  itl_ms: Spread | None
  tpot_ms: Spread | None
  e2e_ms: Spread | None
  good: int | None
  goodput: float | None


def serve_figures(observed: Sequence[Observed], objectives: Mapping[str, float]) -> ServeFigures:
  """The figures of a load.

  Args:
    observed: what each request got.
    objectives: the most milliseconds of `BOUNDED` times that a good request takes; `itl` bounds its longest gap.
  """
  whole = [one for one in observed if one.error is None]
  seconds = max((one.ended for one in observed), default=0.0)
  output = sum(one.output_tokens for one in whole)
  good = None if not objectives else sum(_is_good(one, objectives) for one in whole)
  per_second = 1 / seconds if seconds else 0.0
  return ServeFigures(
    requests=len(observed),
    failed=dict(collections.Counter(one.error for one in observed if one.error is not None)),
    seconds=seconds,
    prompt_tokens=sum(one.prompt_tokens for one in whole),
    output_tokens=output,
    tokens_per_second=output * per_second,
    requests_per_second=len(whole) * per_second,
    ttft_ms=_spread([ttft for one in whole if (ttft := _ttft(one)) is not None]),
    itl_ms=_spread([gap for one in whole for gap in _gaps(one)]),
    tpot_ms=_spread([tpot for one in whole if (tpot := _tpot(one)) is not None]),
    e2e_ms=_spread([one.ended - one.sent for one in whole]),
    good=good,
    goodput=None if good is None else good * per_second,
  )


def parse_objectives(text: str) -> dict[str, float]:
  """Objectives from text such as `ttft=500,tpot=50`, in milliseconds.

  Raises:
    ValueError: another text.
  """
  expected = f"one or more of {', '.join(BOUNDED)} with milliseconds, such as ttft=500,tpot=50"
  try:
    found = {name: float(value) for name, value in (part.split("=") for part in text.split(","))}
  except ValueError:
    raise refusal("--slo", text, expected) from None
  if not found.keys() <= {*BOUNDED} or not all(value > 0 for value in found.values()):
    raise refusal("--slo", text, expected)
  return found


def _ttft(one: Observed) -> float | None:
  return one.came[0] - one.sent if one.came else None


def _gaps(one: Observed) -> list[float]:
  return np.diff(one.came).tolist()


def _tpot(one: Observed) -> float | None:
  return (one.came[-1] - one.came[0]) / (one.output_tokens - 1) if one.came and one.output_tokens > 1 else None


def _is_good(one: Observed, objectives: Mapping[str, float]) -> bool:
  times = {
    "ttft": _ttft(one), "itl": max(_gaps(one), default=None), "tpot": _tpot(one), "e2e": one.ended - one.sent,
  }  # fmt: skip
  found = [(times[name], most) for name, most in objectives.items()]
  return all(time is None or time * 1e3 <= most for time, most in found)


def _spread(seconds: Sequence[float]) -> Spread | None:
  if not seconds:
    return None
  times = np.asarray(seconds) * 1e3
  p50, p90, p99 = np.percentile(times, [50, 90, 99]).tolist()
  return Spread(mean=float(times.mean()), p50=p50, p90=p90, p99=p99)
