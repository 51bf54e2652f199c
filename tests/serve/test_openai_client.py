"""OpenAI's own client reads what the server answers, and the texts are those of `generate`."""

import functools

import jax
import numpy as np
import openai
import pytest

import lynx_jax
from lynx_jax.engine.steps import forward
from tests.serve.running import MODEL, params, tokenizer

NEW = 8
PROMPTS = ["The man is", "She went to the", "Once upon a time, there was"]
CHAT = [{"role": "user", "content": "Hi"}]


@functools.cache
def generated() -> list[str]:
  """What `generate` makes of the prompts, and of the conversation."""
  turns = tokenizer().encode(tokenizer().apply_chat(CHAT), add_special_tokens=False)
  return generate([*map(tokenizer().encode, PROMPTS), turns])


def generate(prompts, **fields) -> list[str]:
  own = {"policy": lynx_jax.TopK(), "max_new_tokens": NEW}
  return [done.text for done in lynx_jax.generate(params(), prompts, **own, **fields)]


def chat(serving, **fields):
  return serving.openai.chat.completions.create(
    **({"model": MODEL, "messages": CHAT, "max_tokens": NEW, "temperature": 0} | fields)
  )


def complete(serving, prompt, **fields):
  return serving.openai.completions.create(
    **({"model": MODEL, "prompt": prompt, "max_tokens": NEW, "temperature": 0} | fields)
  )


def test_a_chat_is_what_generate_makes(serving):
  answer = chat(serving)
  (choice,) = answer.choices
  assert choice.message.content == generated()[-1]
  assert choice.message.role == "assistant"
  assert choice.finish_reason == "length"
  assert answer.model == MODEL
  assert answer.system_fingerprint.startswith("lynx_")
  prompt = tokenizer().encode(tokenizer().apply_chat(CHAT), add_special_tokens=False)
  assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), NEW)
  assert answer.usage.total_tokens == len(prompt) + NEW


def test_a_streamed_chat_joins_to_the_same(serving):
  chunks = list(chat(serving, stream=True, stream_options={"include_usage": True}))
  *deltas, last = chunks
  assert deltas[0].choices[0].delta.role == "assistant"
  assert "".join(chunk.choices[0].delta.content or "" for chunk in deltas) == generated()[-1]
  assert [chunk.choices[0].finish_reason for chunk in deltas][-1] == "length"
  assert all(chunk.usage is None for chunk in deltas)
  assert last.choices == []
  assert last.usage.completion_tokens == NEW
  assert len({chunk.id for chunk in chunks}) == 1


def test_parts_of_a_message_are_its_text(serving):
  parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
  assert chat(serving, messages=[{"role": "user", "content": parts}]).choices[0].message.content == generated()[-1]


def test_an_open_message_is_continued(serving):
  opened = [*CHAT, {"role": "assistant", "content": "The capital"}]
  given = chat(serving, messages=opened, extra_body={"continue_final_message": True, "return_token_ids": True})
  prompt = tokenizer().apply_chat(CHAT) + "The capital"
  assert given.prompt_token_ids == tokenizer().encode(prompt, add_special_tokens=False)


@pytest.mark.parametrize("ids", [False, True])
def test_prompts_of_a_completion_are_answered_in_order(serving, ids):
  prompts = [tokenizer().encode(prompt) for prompt in PROMPTS] if ids else PROMPTS
  answer = complete(serving, prompts)
  assert [choice.text for choice in answer.choices] == generated()[:3]
  assert [choice.index for choice in answer.choices] == [0, 1, 2]
  assert answer.usage.completion_tokens == NEW * len(PROMPTS)


def test_a_streamed_completion_joins_to_the_same(serving):
  texts = [""] * len(PROMPTS)
  for chunk in complete(serving, PROMPTS, stream=True):
    for choice in chunk.choices:
      texts[choice.index] += choice.text
  assert texts == generated()[:3]


def test_samples_repeat_by_their_seed_and_differ_from_each_other(serving):
  def draw(**fields):
    return [c.text for c in complete(serving, PROMPTS[0], temperature=1.0, n=4, **fields).choices]

  first = draw(seed=7)
  assert draw(seed=7) == first
  assert len(set(first)) == 4
  assert draw(seed=8) != first
  sampling = lynx_jax.Sampling(temperature=1.0, seed=7)
  assert generate([PROMPTS[0]] * 4, sampling=sampling) == first
  usage = complete(serving, PROMPTS[0], n=3).usage
  assert usage.prompt_tokens == len(tokenizer().encode(PROMPTS[0]))


def test_the_likeliest_token_is_what_narrow_filters_leave(serving):
  narrow = [{"extra_body": {"top_k": 1}}, {"top_p": 0}, {"extra_body": {"min_p": 1}}]
  assert {complete(serving, PROMPTS[0], temperature=1.0, **fields).choices[0].text for fields in narrow} == {
    generated()[0]
  }


def test_biases_penalties_and_least_lengths_are_obeyed(serving):
  ids = {"return_token_ids": True, "ignore_eos": True}
  biased = complete(serving, PROMPTS[0], logit_bias={"300": 100}, extra_body=ids)
  assert biased.choices[0].token_ids == [300] * NEW
  punished = complete(
    serving, PROMPTS[0], logit_bias={"300": 20, "301": 20}, frequency_penalty=2, presence_penalty=2, extra_body=ids
  )  # fmt: skip
  assert {*punished.choices[0].token_ids} == {300, 301}
  first = complete(serving, PROMPTS[0], extra_body=ids).choices[0].token_ids
  stops = {"stop_token_ids": first[:1], "return_token_ids": True}
  assert len(complete(serving, PROMPTS[0], extra_body=stops).choices[0].token_ids) == 1
  later = complete(serving, PROMPTS[0], extra_body=stops | {"min_tokens": 4}).choices[0].token_ids
  assert len(later) > 4
  assert first[0] not in later[:4]


def test_text_ends_before_a_stop_string(serving):
  text = generated()[0]
  stop = text[8:11]
  (choice,) = complete(serving, PROMPTS[0], stop=[stop, "never"]).choices
  assert choice.text == text[: text.index(stop)]
  assert choice.finish_reason == "stop"
  streamed = "".join(chunk.choices[0].text for chunk in complete(serving, PROMPTS[0], stop=stop, stream=True))
  assert streamed == choice.text


def test_a_stop_token_ends_a_completion(serving):
  drawn = complete(serving, PROMPTS[0], extra_body={"return_token_ids": True}).choices[0].token_ids
  stop = {"stop_token_ids": [drawn[3]], "return_token_ids": True}
  (choice,) = complete(serving, PROMPTS[0], extra_body=stop).choices
  assert choice.token_ids == drawn[: drawn.index(drawn[3]) + 1]
  assert choice.finish_reason == "stop"


@functools.cache
def _logprobs(ids: tuple[int, ...]) -> np.ndarray:
  """Log-probabilities after each of the tokens, by a whole forward pass."""
  padded = np.zeros((1, 64), np.int32)
  padded[0, : len(ids)] = ids
  return np.asarray(jax.nn.log_softmax(jax.jit(forward)(params(), padded)[0, : len(ids)].astype(np.float32), axis=-1))


def test_logprobs_of_a_chat_are_those_of_a_forward_pass(serving):
  given = chat(serving, logprobs=True, top_logprobs=3, extra_body={"return_token_ids": True})
  prompt, drawn = given.prompt_token_ids, given.choices[0].token_ids
  expected = _logprobs((*prompt, *drawn))[len(prompt) - 1 : -1]
  entries = given.choices[0].logprobs.content
  np.testing.assert_allclose([one.logprob for one in entries], expected[np.arange(NEW), drawn], atol=1e-4)
  for one, row in zip(entries, expected, strict=True):
    np.testing.assert_allclose([top.logprob for top in one.top_logprobs], np.sort(row)[::-1][:3], atol=1e-4)
    assert one.top_logprobs[0].token == one.token
  assert b"".join(bytes(one.bytes) for one in entries).decode() == given.choices[0].message.content
  streamed = chat(serving, logprobs=True, top_logprobs=3, stream=True)
  pieces = [one for chunk in streamed for one in (chunk.choices[0].logprobs or _Nothing).content]
  assert [one.token for one in pieces] == [one.token for one in entries]


class _Nothing:
  content = ()


@pytest.mark.parametrize("new", [0, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_an_echoed_prompt_is_scored(serving, new, stream):
  prompt = tokenizer().encode(PROMPTS[2])
  given = complete(serving, PROMPTS[2], max_tokens=new, echo=True, logprobs=2, stream=stream)
  choices = [chunk.choices[0] for chunk in given] if stream else given.choices
  text = "".join(choice.text for choice in choices)
  assert text.startswith(PROMPTS[2])
  found = [logprob for choice in choices for logprob in choice.logprobs.token_logprobs]
  tokens = [token for choice in choices for token in choice.logprobs.tokens]
  assert "".join(tokens) == text
  assert found[0] is None
  expected = _logprobs(tuple(prompt))[np.arange(len(prompt) - 1), prompt[1:]]
  np.testing.assert_allclose(found[1 : len(prompt)], expected, atol=1e-4)
  assert len(found) == len(prompt) + new
  offsets = [offset for choice in choices for offset in choice.logprobs.text_offset]
  assert [text[at : at + len(token)] for at, token in zip(offsets, tokens, strict=True)] == tokens


def test_the_experts_of_each_token_are_returned(serving):
  given = complete(serving, PROMPTS[0], extra_body={"return_routing": True, "return_token_ids": True})
  routing = np.array(given.choices[0].routing)
  moe = params().spec.moe_specs[0]
  positions = len(given.choices[0].prompt_token_ids) + NEW - 1
  assert routing.shape == (positions, len(params().spec.moe_specs), moe.top_k)
  assert routing.min() >= 0
  assert routing.max() < moe.experts
  chunks = list(complete(serving, PROMPTS[0], stream=True, extra_body={"return_routing": True}))
  (last,) = [chunk.choices[0].routing for chunk in chunks if hasattr(chunk.choices[0], "routing")]
  assert np.array_equal(last, routing)


def test_every_quality_is_served(serving):
  for quality in ("exact", "high", "standard", "economy"):
    assert complete(serving, PROMPTS[0], extra_body={"quality": quality, "priority": 3}).usage.completion_tokens == NEW


def test_a_cached_prefix_is_counted_and_a_salt_keeps_it_apart(serving):
  prompt = list(range(100, 180))
  complete(serving, prompt, extra_body={"cache_salt": "a"})
  assert complete(serving, prompt, extra_body={"cache_salt": "a"}).usage.prompt_tokens_details.cached_tokens == 64
  assert complete(serving, prompt, extra_body={"cache_salt": "b"}).usage.prompt_tokens_details.cached_tokens == 0


def test_models_are_listed(serving):
  assert [model.id for model in serving.openai.models.list()] == [MODEL]
  assert serving.openai.models.retrieve(MODEL).owned_by == "lynx_jax"
  with pytest.raises(openai.NotFoundError) as refused:
    serving.openai.models.retrieve("other")
  assert refused.value.code == "model_not_found"


def test_tokens_go_both_ways(serving):
  ids = tokenizer().encode(PROMPTS[2])
  given = serving.http.post("/tokenize", json={"prompt": PROMPTS[2], "return_token_strs": True}).json()
  assert given["tokens"] == ids
  assert given["count"] == len(ids)
  assert "".join(given["token_strs"]) == PROMPTS[2]
  assert serving.http.post("/detokenize", json={"tokens": ids}).json() == {"prompt": PROMPTS[2]}
  turns = serving.http.post("/tokenize", json={"messages": CHAT}).json()["tokens"]
  assert turns == tokenizer().encode(tokenizer().apply_chat(CHAT), add_special_tokens=False)
