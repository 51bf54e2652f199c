"""What a cached prefix saves: the time to the first token of a prompt that is mostly cached, over one that is not."""

import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np

from lynx_jax.bench.engine.load import with_context
from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.host.step_plan import BLOCK_SIZE
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.models.params import Params
from pallas_kernels.checks import whole_number


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PrefixHit:
  """Times to the first token in an engine that does nothing else.

  Attributes:
    prompt: tokens of each prompt.
    cached: of these, read from the prefix cache, as the engine reports.
    cold_ms: median, with nothing cached, in milliseconds.
    hit_ms: median, with the prefix cached.
    ratio: the cached prompt's time over the cold one's, the median of ratios of pairs.
  """

  prompt: int
  cached: int
  cold_ms: float
  hit_ms: float
  ratio: float


def prefix_hit(
  params: Params,
  settings: EngineSettings,
  *,
  prompt: int = 512,
  repeats: int = 5,
  seed: int = 0,
  clock: Callable[[], float] = time.perf_counter,
) -> PrefixHit:
  """Sends a prompt, then one that shares its first seven eighths, in whole blocks; both ask for one token.

  Args:
    params: the model.
    settings: of the engine.
    prompt: tokens of each prompt; 512 share 448.
    repeats: pairs, each of other tokens. One more pair goes before them and is not timed.
    seed: of tokens.
    clock: seconds.

  Raises:
    ValueError: a prompt that shares no whole block, or does not fit the model's context.
  """
  whole_number("prompt", prompt, least=-(-BLOCK_SIZE * 8 // 7), remedy="seven eighths of it must hold a block")
  shared = prompt * 7 // 8 // BLOCK_SIZE * BLOCK_SIZE
  core = EngineCore(params, with_context(settings, prompt + 1, params.spec))
  core.warm_up()
  random = np.random.default_rng(seed)
  pairs, cached = [], 0
  for index in range(repeats + 1):
    tokens = random.integers(params.spec.vocab, size=2 * prompt - shared).tolist()
    cold, _ = _first_token(core, f"cold {index}", tokens[:prompt], clock)
    hit, cached = _first_token(core, f"hit {index}", tokens[:shared] + tokens[prompt:], clock)
    pairs.append((cold, hit))
  pairs = pairs[1:]
  return PrefixHit(
    prompt=prompt,
    cached=cached,
    cold_ms=statistics.median(cold for cold, _ in pairs) * 1e3,
    hit_ms=statistics.median(hit for _, hit in pairs) * 1e3,
    ratio=statistics.median(hit / cold for cold, hit in pairs),
  )


def _first_token(core: EngineCore, name: str, prompt: list[int], clock: Callable[[], float]) -> tuple[float, int]:
  """Seconds to the first token, and the prompt's cached tokens."""
  begin = clock()
  core.submit(Request(id=name, prompt=tuple(prompt), max_new_tokens=1, ignore_eos=True))
  (piece,) = core.run()
  assert piece.finished is not None
  return clock() - begin, piece.finished.cached_tokens
