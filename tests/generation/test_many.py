"""Many prompts, and many samples of one: order, memory, shared beginnings, progress."""

import numpy as np
import pytest

import lynx_jax
from lynx_jax import Sampling
from lynx_jax.engine import cache_room
from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.host.step_plan import BLOCK_SIZE
from lynx_jax.generation import batch
from lynx_jax.generation.order import by_shared_prefix
from lynx_jax.models.sizes import cache_bytes
from tests.small_models import greedy_alone, random_prompts, small_params


class Watched(EngineCore):
  """An engine that notes what it holds."""

  made: list["Watched"]

  def __init__(self, *args, **options):
    super().__init__(*args, **options)
    self.made.append(self)
    self.most_live = 0

  def submit(self, request):
    super().submit(request)
    stats = self.stats()
    self.most_live = max(self.most_live, stats.waiting + stats.running)


@pytest.fixture
def engines(monkeypatch):
  """The engines that calls of the test make."""
  monkeypatch.setattr(Watched, "made", [], raising=False)
  monkeypatch.setattr(batch, "EngineCore", Watched)
  return Watched.made


def room_for(monkeypatch, blocks: int) -> None:
  """Leaves memory for so many blocks of the small model's cache."""
  params = small_params()
  size = cache_bytes(params.spec, params.decoder.dtype) * BLOCK_SIZE
  monkeypatch.setattr(cache_room, "_available", lambda: blocks * size)


# Types are checked in the other tests; here that would be most of the time.
@pytest.mark.usefixtures("own_errors")
def test_thousands_of_prompts_come_back_in_order_from_a_small_pool(engines, monkeypatch):
  room_for(monkeypatch, 20)
  kinds = random_prompts(np.arange(40) % 9 + 1)
  prompts = [kinds[index] for index in np.random.default_rng(0).integers(40, size=2000)]
  done = lynx_jax.generate(small_params(), prompts, max_new_tokens=3)
  assert [list(one.token_ids) for one in done] == [greedy_alone(tuple(prompt), 3) for prompt in prompts]
  (engine,) = engines
  assert engine.limits.blocks == 20
  # Those that run, and those that are looked through for the next one.
  assert engine.most_live <= 64 + 64
  assert engine.stats().held_blocks == 0


def test_a_common_beginning_is_read_once_however_the_prompts_are_mixed(engines, monkeypatch):
  room_for(monkeypatch, 12)
  groups = random_prompts([64] * 8)
  prompts = [groups[index % 8] + random_prompts([5], seed=index)[0] for index in range(96)]
  done = lynx_jax.generate(small_params(), prompts, max_new_tokens=2, batch=4)
  (engine,) = engines
  # Eight beginnings of two blocks do not fit the pool beside the rows.
  assert engine.limits.blocks == 12
  assert engine.stats().cached_tokens == (96 - 8) * 64
  for index in (0, 1, 8, 95):
    assert list(done[index].token_ids) == greedy_alone(tuple(prompts[index]), 2)


def test_prompts_that_share_blocks_are_neighbours_and_others_keep_their_order():
  random = np.random.default_rng(0)
  blocks = [tuple(random.integers(9, size=BLOCK_SIZE).tolist()) for _ in range(3)]
  for _ in range(50):
    chosen = [random.integers(3, size=random.integers(4)) for _ in range(12)]
    prompts = [[token for block in row for token in blocks[block]] + [1, 2] for row in chosen]
    order = by_shared_prefix(prompts)
    assert sorted(order) == list(range(12))
    for prompt in prompts:
      for end in range(BLOCK_SIZE, len(prompt) + 1, BLOCK_SIZE):
        places = [at for at, index in enumerate(order) if prompts[index][:end] == prompt[:end]]
        assert places == list(range(places[0], places[0] + len(places)))
    first = [order.index(index) for index, row in enumerate(chosen) if not row.size]
    assert first == sorted(first)
  assert by_shared_prefix([[3, 1], [2], [3, 1], [*blocks[0]], [1]]) == [0, 1, 2, 3, 4]


def test_samples_read_their_prompt_once(engines):
  prompts, hot = random_prompts([70, 40]), Sampling(temperature=1.0, seed=2)
  done = lynx_jax.generate(small_params(), prompts, max_new_tokens=8, sampling=hot, n=4)
  (engine,) = engines
  stats = engine.stats()
  # Whole blocks are shared: 64 of 70 tokens, and 32 of 40.
  assert (stats.prompt_tokens, stats.cached_tokens) == (4 * 110, 3 * (64 + 32))
  apart = lynx_jax.generate(
    small_params(), [prompt for prompt in prompts for _ in range(4)], max_new_tokens=8, sampling=hot
  )
  assert done == apart
  assert len({one.token_ids for one in done}) == 8


def test_samples_of_a_prompt_with_its_own_sampling_and_limit():
  prompts = random_prompts([5, 6])
  warm, hot = Sampling(temperature=0.7, seed=1), Sampling(temperature=1.0, seed=2, stream=5)
  done = lynx_jax.generate(small_params(), prompts, max_new_tokens=[3, 4], sampling=[warm, hot], n=2)
  assert [len(one.token_ids) for one in done] == [3, 3, 4, 4]
  second = lynx_jax.generate(
    small_params(), prompts[1:], max_new_tokens=4, sampling=[Sampling(temperature=1.0, seed=2, stream=6)]
  )
  assert done[3] == second[0]


def test_a_smaller_batch_gives_the_same_tokens(engines):
  prompts = random_prompts([3, 40, 7, 20, 9])
  done = lynx_jax.generate(small_params(), prompts, max_new_tokens=6, batch=2)
  assert [list(one.token_ids) for one in done] == [greedy_alone(tuple(prompt))[:6] for prompt in prompts]
  assert engines[0].limits.slots == 2


def test_each_prompt_may_have_its_own_stop_strings():
  params = lynx_jax.load()
  prompts = ["The man is", "The man is", "A dog runs"]
  stops = [(" the",), (), (" a", ".")]
  done = lynx_jax.generate(params, prompts, max_new_tokens=20, stop=stops)
  for prompt, stop, completion in zip(prompts, stops, done, strict=True):
    assert completion == lynx_jax.generate(params, prompt, max_new_tokens=20, stop=stop)[0]
  assert done[0] != done[1]
  with pytest.raises(ValueError, match="stop has 1 entries for 3 prompts"):
    lynx_jax.generate(params, prompts, stop=[("a",)])


def test_progress_is_shown_on_standard_error_when_asked_for(capsys):
  options = {"max_new_tokens": 2, "errors": "return"}
  silent = lynx_jax.generate(small_params(), [[1], [2], []], **options)
  assert capsys.readouterr() == ("", "")
  shown = lynx_jax.generate(small_params(), [[1], [2], []], progress=True, **options)
  out, err = capsys.readouterr()
  assert out == ""
  assert "3/3" in err
  assert "tokens/s" in err
  assert [one.token_ids for one in shown] == [one.token_ids for one in silent]
  assert len(list(lynx_jax.stream(small_params(), [[1]], max_new_tokens=2, progress=True))) == 2
  assert "1/1" in capsys.readouterr().err


def test_a_stream_that_is_left_ends_its_bar(capsys):
  pieces = lynx_jax.stream(small_params(), [[1], [2]], max_new_tokens=9, progress=True)
  next(pieces)
  pieces.close()
  assert "0/2" in capsys.readouterr().err
