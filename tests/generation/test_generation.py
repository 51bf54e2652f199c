"""Text in, text out: order, limits, stop strings, streaming, sampling, and what bad input is told."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lynx_jax
from lynx_jax import Lynx, Sampling
from tests.small_models import VOCAB, random_prompts, small_params

PROMPTS = ["The man is", "Question: What do plants need to grow?\nAnswer:", "A"]


@pytest.fixture(scope="module")
def embedded():
  return lynx_jax.load()


def test_completions_come_in_order_with_new_tokens_only(embedded):
  done = lynx_jax.generate(embedded, PROMPTS, max_new_tokens=12)
  for prompt, completion in zip(PROMPTS, done, strict=True):
    alone = lynx_jax.generate(embedded, prompt, max_new_tokens=12)[0]
    ids = lynx_jax.generate(embedded, [embedded.tokenizer.encode(prompt)], max_new_tokens=12)[0]
    assert alone.token_ids == ids.token_ids
    assert embedded.tokenizer.decode(list(completion.token_ids)) == completion.text
    assert 1 <= len(completion.token_ids) <= 12
    assert completion.stats is None


@pytest.mark.parametrize("policy", [None, Lynx(alpha=3, beta=2)], ids=["own", "lynx"])
@pytest.mark.parametrize("stop", [(), (" the", "you")], ids=["free", "stops"])
def test_the_pieces_of_a_stream_join_to_what_generate_gives(embedded, policy, stop):
  options = {"max_new_tokens": 24, "policy": policy, "stop": stop, "stats": True}
  done = lynx_jax.generate(embedded, PROMPTS, **options)
  texts = [""] * 3
  ids: list[tuple[int, ...]] = [()] * 3
  reasons: list[str | None] = [None] * 3
  stats = []
  for piece in lynx_jax.stream(embedded, PROMPTS, **options):
    assert reasons[piece.row] is None
    texts[piece.row] += piece.text
    ids[piece.row] += piece.token_ids
    reasons[piece.row] = piece.finish_reason
    stats.append(piece.stats)
  assert [(c.text, c.token_ids, c.finish_reason) for c in done] == list(zip(texts, ids, reasons, strict=True))
  assert all(report is None for report in stats[:-1])
  assert stats[-1] == done[0].stats


def test_a_stop_string_cuts_the_text_and_ends_the_row(embedded):
  free = lynx_jax.generate(embedded, PROMPTS[0], max_new_tokens=24)[0]
  words = free.text.split(" ")
  stop = " " + words[3] + " "
  cut = lynx_jax.generate(embedded, PROMPTS[0], max_new_tokens=24, stop=stop)[0]
  assert cut.text == free.text[: free.text.index(stop)]
  assert cut.finish_reason == "stop"
  assert cut.token_ids == free.token_ids[: len(cut.token_ids)]
  assert len(cut.token_ids) < len(free.token_ids)


def test_each_row_has_its_own_limit_and_sampling(embedded):
  hot = Sampling(temperature=1.0, seed=5)
  limits = [3, 9, 5]
  done = lynx_jax.generate(
    embedded, PROMPTS, max_new_tokens=limits, sampling=[Sampling(), hot, Sampling(temperature=1.0, top_k=1)]
  )
  greedy = lynx_jax.generate(embedded, PROMPTS, max_new_tokens=9)
  for completion, limit in zip(done, limits, strict=True):
    assert len(completion.token_ids) == limit or completion.finish_reason == "stop"
    assert len(completion.token_ids) <= limit
  assert done[0].token_ids == greedy[0].token_ids[:3]
  assert done[2].token_ids == greedy[2].token_ids[:5]
  alone = lynx_jax.generate(embedded, PROMPTS[1], max_new_tokens=9, sampling=[hot])
  assert alone[0].token_ids == done[1].token_ids != greedy[1].token_ids


def test_the_same_seed_gives_the_same_tokens_and_rows_differ(embedded):
  options = {"max_new_tokens": 16, "sampling": Sampling(temperature=1.0, seed=1)}
  first = lynx_jax.generate(embedded, [PROMPTS[0]] * 3, **options)
  assert first == lynx_jax.generate(embedded, [PROMPTS[0]] * 3, **options)
  assert len({completion.token_ids for completion in first}) == 3
  other = lynx_jax.generate(embedded, [PROMPTS[0]] * 3, max_new_tokens=16, sampling=Sampling(temperature=1.0, seed=2))
  assert first != other


def test_statistics_compare_the_policy_with_the_models_own_routing(embedded):
  prompts = [PROMPTS[0]] * 2 + PROMPTS[1:]
  own = lynx_jax.generate(embedded, prompts, max_new_tokens=16, stats=True)[0].stats
  assert own is not None
  assert own.active_experts == own.own_experts
  assert own.retained_mass == pytest.approx([1.0] * 6)
  lynx = lynx_jax.generate(embedded, prompts, max_new_tokens=16, policy=Lynx(alpha=1, beta=2), stats=True)[0].stats
  assert lynx is not None
  assert np.mean(lynx.active_experts) < np.mean(lynx.own_experts)
  assert lynx.expert_bytes == pytest.approx(sum(lynx.active_experts) * 3 * 256 * 128 * 2)
  assert "distinct experts per layer and step" in str(lynx)


def test_a_row_ends_at_the_models_context():
  params = small_params()
  long = random_prompts([120])[0]
  done = lynx_jax.generate(params, [long], max_new_tokens=500)[0]
  assert (len(done.token_ids), done.finish_reason) == (params.spec.context - len(long), "length")


def test_a_longer_prompt_than_the_longest_bucket_still_equals_forward():
  params = small_params()
  prompt = random_prompts([100])[0]
  done = lynx_jax.generate(params, [prompt], max_new_tokens=4)[0]
  logits = lynx_jax.forward(params, np.array([prompt + list(done.token_ids)], np.int32))
  assert tuple(np.argmax(logits[0, 99:-1], axis=-1).tolist()) == done.token_ids


@pytest.mark.parametrize(
  ("prompts", "error", "message"),
  [
    ([], ValueError, "prompts is empty"),
    ([[1, 2], []], ValueError, "prompt 1 is empty: give it at least one token"),
    ([[1, VOCAB]], ValueError, f"prompt 0 holds token id {VOCAB}: the vocabulary has ids 0 to {VOCAB - 1}"),
    ([[-1]], ValueError, "prompt 0 holds token id -1"),
    ([[1.5]], TypeError, "prompt 0 holds 1.5: expected token ids"),
    ([[1] * 128], ValueError, "prompt 0 has 128 tokens, which leaves no room in the model's context of 128"),
    ("text", ValueError, "prompt 0 is text, but this checkpoint has no tokenizer"),
    ([[1], [2], [VOCAB]], ValueError, "prompt 2 holds token id"),
    ([1, 2, 3], TypeError, r"prompts is \[1, 2, 3\]: expected prompts, and these are token ids; put them in a list"),
    (np.array([1, 2]), TypeError, "these are token ids; put them in a list"),
    (None, TypeError, "prompts is None: expected prompts; give a string, a list of strings"),
    (b"text", TypeError, r"prompts is b'text': expected prompts; decode bytes to a string first"),
    ([b"text"], TypeError, r"prompt 0 is b'text': expected a string or a list of token ids; decode bytes to a string"),
    ([bytearray(b"text")], TypeError, "prompt 0 is bytearray.*decode bytes to a string"),
    ({"role": "user", "content": "hi"}, TypeError, "prompts is {'role.*a mapping is no prompt; put messages in a list"),
    ([{"role": "user", "content": "hi"}], TypeError, "prompt 0 is {'role.*give chat=True"),
    ({"a", "b"}, TypeError, "a set has no order; give a list"),
    ([{1, 2}], TypeError, "prompt 0 is {1, 2}.*a set has no order; give a list"),
  ],
)
@pytest.mark.usefixtures("own_errors")
def test_bad_prompts_are_named(prompts, error, message):
  with pytest.raises(error, match=message):
    lynx_jax.generate(small_params(), prompts)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"max_new_tokens": 0}, "max_new_tokens is 0: expected a whole number from 1 to 2147483647"),
    ({"max_new_tokens": [1, 2, 3]}, "max_new_tokens has 3 entries for 1 prompts"),
    ({"sampling": [Sampling(), Sampling()]}, "sampling has 2 entries for 1 prompts"),
    ({"stop": ["x", ""]}, "stop is .* none empty"),
    ({"stop": "x"}, "stop strings need a tokenizer"),
    ({"policy": lynx_jax.CountVote(keep=1)}, "keep"),
    ({"policy": "lynz:alpha=3"}, "unknown policy 'lynz'"),
    ({"policy": lynx_jax.Auto}, r"policy is the class Auto: expected an instance; give one such as Auto\(...\)"),
    ({"policy": [lynx_jax.Auto(), None]}, r"policy is \[Auto.*: expected a policy, its text, or None"),
    ({"policy": 3}, "policy is 3: expected a policy, its text, or None"),
    ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5: expected a whole number from 1 to 2147483647"),
    ({"max_new_tokens": 2**31}, "max_new_tokens is 2147483648: expected a whole number from 1 to 2147483647"),
    ({"max_new_tokens": None}, "max_new_tokens is None: expected a whole number"),
    (
      {"sampling": {"temperature": 1.0}},
      r"sampling is {'temperature': 1.0}: expected a Sampling, such as Sampling\(temp",
    ),
    ({"sampling": None}, "sampling is None: expected a Sampling"),
    ({"stop": None}, r"stop is None: expected a string, or strings, none empty; \(\) is none"),
    ({"chat": "yes"}, "chat is 'yes': expected True, False, or a mapping of the chat template's variables"),
    ({"chat": None}, "chat is None: expected True, False"),
  ],
)
@pytest.mark.usefixtures("own_errors")
def test_bad_options_are_named(options, message):
  with pytest.raises((ValueError, TypeError), match=message):
    lynx_jax.generate(small_params(), [[1, 2]], **options)


@pytest.mark.parametrize("params", ["qa/base", None])
@pytest.mark.usefixtures("own_errors")
def test_a_model_that_is_not_loaded_is_named(params):
  with pytest.raises(TypeError, match=rf"params is {params!r}: expected a loaded model, such as lynx_jax.load"):
    lynx_jax.generate(params, ["a"])


@pytest.mark.usefixtures("own_errors")
def test_numbers_may_be_numpys_and_a_policy_may_be_text():
  params, prompts = small_params(), random_prompts([4, 5])
  policy = Lynx(alpha=1, beta=1)
  expected = lynx_jax.generate(params, prompts, max_new_tokens=[3, 4], policy=policy)
  numbers: tuple[Any, ...] = np.array([3, 4]), [np.int64(3), 4.0], jnp.array([3, 4])
  for limits in numbers:
    assert lynx_jax.generate(params, prompts, max_new_tokens=limits, policy="lynx:alpha=1,beta=1") == expected
  arrays = [np.array(prompts[0]), jnp.array(prompts[1])]
  assert lynx_jax.generate(params, arrays, max_new_tokens=[3, 4], policy=policy) == expected
  one: Any = np.int64(3)
  assert len(lynx_jax.generate(params, prompts, max_new_tokens=one)[1].token_ids) == 3
  pieces = lynx_jax.stream(params, prompts, max_new_tokens=3, policy="lynx:alpha=1,beta=1")
  assert sum(len(piece.token_ids) for piece in pieces) == 6


@pytest.mark.parametrize("chat", [False, True])
def test_a_tokenizer_of_another_model_is_named(embedded, chat):
  params = dataclasses.replace(small_params(), tokenizer=embedded.tokenizer)
  mixed: Any = [[5], "The man is standing"]
  message = rf"prompt 1 becomes token id \d+, and the model's vocabulary has ids 0 to {VOCAB - 1}: the tokenizer does"
  with pytest.raises(ValueError, match=message):
    lynx_jax.generate(params, ["", "The man"] if chat else mixed, chat=chat)


@pytest.mark.parametrize("chat", [False, True])
def test_text_that_is_not_unicode_is_named(embedded, chat):
  with pytest.raises(ValueError, match=r"is '\\ud800', which is not valid Unicode"):
    lynx_jax.generate(embedded, ["a", "b\ud800"], chat=chat)


def test_nan_logits_are_an_error_that_names_the_prompt():
  params = small_params()
  broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params.decoder)
  with pytest.raises(FloatingPointError, match="prompt 0: the model's logits are not finite at position 2"):
    lynx_jax.generate(dataclasses.replace(params, decoder=broken), [[1, 2]])
