"""Text in, text out: order, limits, stop strings, streaming, sampling, and what bad input is told."""

import dataclasses

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
  texts, ids, reasons = [""] * 3, [()] * 3, [None] * 3
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
  assert own.active_experts == own.own_experts
  assert own.retained_mass == pytest.approx([1.0] * 6)
  lynx = lynx_jax.generate(embedded, prompts, max_new_tokens=16, policy=Lynx(alpha=1, beta=2), stats=True)[0].stats
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
  ],
)
@pytest.mark.usefixtures("own_errors")
def test_bad_prompts_are_named(prompts, error, message):
  with pytest.raises(error, match=message):
    lynx_jax.generate(small_params(), prompts)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"max_new_tokens": 0}, "max_new_tokens is 0: expected a whole number of at least 1"),
    ({"max_new_tokens": [1, 2, 3]}, "max_new_tokens has 3 entries for 1 prompts"),
    ({"sampling": [Sampling(), Sampling()]}, "sampling has 2 entries for 1 prompts"),
    ({"stop": ["x", ""]}, "stop is .* none empty"),
    ({"stop": "x"}, "stop strings need a tokenizer"),
    ({"policy": lynx_jax.CountVote(keep=1)}, "keep"),
  ],
)
@pytest.mark.usefixtures("own_errors")
def test_bad_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    lynx_jax.generate(small_params(), [[1, 2]], **options)


def test_nan_logits_are_an_error_that_names_the_prompt():
  params = small_params()
  broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params.decoder)
  with pytest.raises(FloatingPointError, match="prompt 0: the model's logits are not finite at new token 0"):
    lynx_jax.generate(dataclasses.replace(params, decoder=broken), [[1, 2]])
