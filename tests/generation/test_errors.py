"""A prompt that fails ends alone, where that is asked for."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import lynx_jax
from lynx_jax import Completion, Params, Sampling, Tokenizer
from tests.small_models import VOCAB, greedy_alone, small_params

GOOD = [3, 4, 7]


def with_damaged(token: int) -> Params:
  """The small model; logits after this token are not finite."""
  params = small_params()
  broken = jax.tree.map(lambda leaf: leaf, params.decoder)
  broken.embedding.set_value(params.decoder.embedding[...].at[token].set(jnp.nan))
  return Params(broken)


class Failing(Tokenizer):
  """A tokenizer that cannot decode some tokens."""

  def decode(self, ids):
    ids = list(ids)
    if set(ids) & FAILING_IDS:
      raise OverflowError("out of range")
    return super().decode(ids)


FAILING_IDS: set[int] = set()


@pytest.fixture(scope="module")
def embedded():
  return lynx_jax.load()


@pytest.mark.usefixtures("own_errors")
def test_bad_prompts_get_their_errors_and_the_others_end():
  prompts: Any = [GOOD, [], [VOCAB], "text", [1] * 500, 7, {1, 2}, [5, "a"], GOOD]
  done = lynx_jax.generate(small_params(), prompts, max_new_tokens=10, errors="return")
  assert [done[index] for index in (0, 8)] == [Completion("", tuple(greedy_alone(tuple(GOOD))), "length")] * 2
  bad = done[1:8]
  assert {(one.text, one.token_ids, one.finish_reason) for one in bad} == {("", (), "error")}
  kinds = [ValueError, ValueError, ValueError, ValueError, TypeError, TypeError, TypeError]
  assert [type(one.error) for one in bad] == kinds
  messages = [
    "prompt 1 is empty", f"prompt 2 holds token id {VOCAB}", "prompt 3 is text, but this checkpoint has no tokenizer",
    "prompt 4 has 500 tokens", "prompt 5 is 7", "prompt 6 is {1, 2}", "prompt 7 holds 'a'",
  ]  # fmt: skip
  assert all(str(one.error).startswith(message) for one, message in zip(bad, messages, strict=True))
  with pytest.raises(ValueError, match="prompt 1 is empty"):
    lynx_jax.generate(small_params(), prompts, max_new_tokens=10)


def test_a_row_draws_the_same_whether_a_prompt_before_it_fails_or_not():
  options = {"max_new_tokens": 10, "sampling": Sampling(temperature=1.0, seed=3)}
  whole = lynx_jax.generate(small_params(), [GOOD, GOOD, GOOD], **options)
  left = lynx_jax.generate(small_params(), [GOOD, [], GOOD], errors="return", **options)
  assert (left[0], left[2]) == (whole[0], whole[2])
  assert left[0] != left[2]


def test_where_all_prompts_fail_each_has_its_error():
  done = lynx_jax.generate(small_params(), [[], [VOCAB]], errors="return")
  assert [str(one.error).split(":")[0] for one in done] == ["prompt 0 is empty", f"prompt 1 holds token id {VOCAB}"]


def test_damaged_logits_end_their_own_row():
  expected = greedy_alone(tuple(GOOD))
  damaged = next(token for token in range(VOCAB) if token not in {*GOOD, *expected})
  prompts = [GOOD, [3, damaged], GOOD]
  done = lynx_jax.generate(with_damaged(damaged), prompts, max_new_tokens=10, errors="return")
  assert [list(one.token_ids) for one in done] == [expected, [], expected]
  assert [one.finish_reason for one in done] == ["length", "error", "length"]
  assert isinstance(done[1].error, FloatingPointError)
  assert str(done[1].error).startswith("prompt 1: the model's logits are not finite at position 2")
  with pytest.raises(FloatingPointError, match="prompt 1: the model's logits are not finite"):
    lynx_jax.generate(with_damaged(damaged), prompts, max_new_tokens=10)
  with pytest.raises(FloatingPointError, match="prompt 0, sample 0: the model's logits are not finite"):
    lynx_jax.generate(with_damaged(damaged), [[3, damaged]], n=2)


def test_a_tokenizer_that_fails_ends_its_own_row_with_what_was_drawn_before(embedded, monkeypatch):
  prompts = ["The man is", "A dog runs"]
  free = lynx_jax.generate(embedded, prompts, max_new_tokens=12)
  fails = next(index for index, token in enumerate(free[0].token_ids) if index and token not in free[1].token_ids)
  monkeypatch.setattr("tests.generation.test_errors.FAILING_IDS", {free[0].token_ids[fails]})
  fields = {field.name: getattr(embedded.tokenizer, field.name) for field in dataclasses.fields(Tokenizer)}
  params = dataclasses.replace(embedded, tokenizer=Failing(**fields))
  done = lynx_jax.generate(params, prompts, max_new_tokens=12, errors="return")
  assert done[1] == free[1]
  assert (done[0].finish_reason, done[0].token_ids) == ("error", free[0].token_ids[: fails + 1])
  assert free[0].text.startswith(done[0].text)
  assert isinstance(done[0].error, RuntimeError)
  assert "prompt 0: the tokenizer cannot decode token" in str(done[0].error)
  with pytest.raises(RuntimeError, match="prompt 0: the tokenizer cannot decode token"):
    lynx_jax.generate(params, prompts, max_new_tokens=12)


def test_a_stream_tells_of_bad_prompts_first():
  pieces = list(lynx_jax.stream(small_params(), [GOOD, []], max_new_tokens=3, errors="return", stats=True))
  assert (pieces[0].row, pieces[0].finish_reason, type(pieces[0].error)) == (1, "error", ValueError)
  assert [piece.row for piece in pieces[1:]] == [0] * 3
  assert pieces[-1].stats is not None


@pytest.mark.usefixtures("own_errors")
def test_bad_conversations_get_their_errors(embedded):
  chats: Any = ["What do plants need?", 7, [], "Hi \ud800"]
  done = lynx_jax.generate(embedded, chats, max_new_tokens=4, chat=True, errors="return")
  assert done[0] == lynx_jax.generate(embedded, chats[:1], max_new_tokens=4, chat=True)[0]
  assert [type(one.error) for one in done[1:]] == [TypeError, ValueError, ValueError]
  with pytest.raises(ValueError, match="chat needs a tokenizer"):
    lynx_jax.generate(small_params(), ["Hi"], chat=True, errors="return")


@pytest.mark.usefixtures("own_errors")
def test_what_is_wrong_with_the_call_is_raised():
  wrong: Any = [({"errors": "ignore"}, "errors is 'ignore'"), ({"n": 0}, "n is 0"), ({"batch": 0}, "batch is 0")]
  for options, message in wrong:
    with pytest.raises(ValueError, match=message):
      lynx_jax.generate(small_params(), [GOOD], **options)
  with pytest.raises(ValueError, match="prompts is empty"):
    lynx_jax.generate(small_params(), [], errors="return")


@dataclasses.dataclass
class Listed:
  """The tokens that may come, one after the other; its state begins anew with each output."""

  tokens: tuple[int, ...]
  at: int = 0

  def start(self) -> "Listed":
    return Listed(self.tokens)

  def allowed(self) -> bytes:
    return (1 << self.tokens[self.at]).to_bytes(16, "little") if self.at < len(self.tokens) else b""

  def may_end(self) -> bool:
    return self.at == 2

  def advance(self, token: int) -> None:
    self.at += 1


def test_each_prompt_has_its_own_constraint_and_its_own_error():
  rules = [Listed((5, 6)), None, Listed((9,))]
  done = lynx_jax.generate(small_params(), [GOOD] * 3, max_new_tokens=10, constraint=rules, errors="return")
  assert [one.token_ids for one in done] == [(5, 6), tuple(greedy_alone(tuple(GOOD))), (9,)]
  assert [one.finish_reason for one in done] == ["stop", "length", "error"]
  assert "prompt 2: the constraint allows no token after 1" in str(done[2].error)
  with pytest.raises(RuntimeError, match="the constraint allows no token"):
    lynx_jax.generate(small_params(), [GOOD] * 3, max_new_tokens=10, constraint=rules)


@pytest.mark.usefixtures("own_errors")
def test_what_is_no_constraint_is_refused():
  text: Any = "json"
  with pytest.raises(TypeError, match="constraint is 'json': expected a Constraint"):
    lynx_jax.generate(small_params(), [GOOD], constraint=text)
