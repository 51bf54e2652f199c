"""Decoding through the cache against transformers, for every family and flag: logits, then greedy text."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import lynx_jax
from tests.families.cases import CASES, Case, checkpoint, random_tokens, reference, reference_logits
from tests.families.suite import TOLERANCE

PROMPT, STEPS, NEW = 9, 10, 32

_prefill = jax.jit(lynx_jax.prefill, static_argnames="capacity")
_next_logits = jax.jit(lynx_jax.next_logits, static_argnames="policy")


@functools.cache
def loaded(case: Case):
  return lynx_jax.load(checkpoint(case))


def cases_of_text() -> list:
  """Greedy text of a family's plain case, and of LongRoPE's, whose angles depend on how a row came to its length.

  Text of the other cases takes longer, and says little that the steps' logits do not.
  """
  often = [case.name == "plain" or str(case) == "phimoe-long" for case in CASES]
  return [
    pytest.param(case, marks=() if now else pytest.mark.slow) for case, now in zip(CASES, often, strict=True)
  ]  # fmt: skip


@pytest.mark.parametrize("case", [case for case in CASES if str(case) != "phimoe-long"], ids=str)
def test_cached_steps_give_the_logits_of_transformers(case: Case):
  params = loaded(case)
  tokens = random_tokens(case, rows=2, length=PROMPT + STEPS)
  theirs = reference_logits(case, tokens)
  state = _prefill(params, tokens[:, :PROMPT], np.full((2,), PROMPT, np.int32), 32)
  state = dataclasses.replace(state, finish=jnp.zeros_like(state.finish))
  for step in range(PROMPT, PROMPT + STEPS):
    logits, state = _next_logits(params, dataclasses.replace(state, token=jnp.asarray(tokens[:, step])))
    assert np.abs(logits - theirs[:, step]).max() < TOLERANCE * np.abs(theirs).max()


@pytest.mark.parametrize("case", cases_of_text(), ids=str)
def test_greedy_text_of_an_unequal_batch_is_that_of_transformers(case: Case):
  prompts = [random_tokens(case, rows=1, length=length)[0].tolist() for length in (1, 16, 6)]
  ours = lynx_jax.generate(loaded(case), prompts, max_new_tokens=NEW)
  for prompt, completion in zip(prompts, ours, strict=True):
    with torch.no_grad():
      whole = reference(case).generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=NEW
      )
    assert list(completion.token_ids) == whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize("case", [cases for cases in CASES if cases.name == "plain"], ids=str)
def test_bfloat16_logits_stay_near_the_float32_ones(case: Case):
  # Eight bits of mantissa through two layers whose experts may flip at near ties: 5 % of the largest logit, and the
  # same first choice at nine positions of ten.
  tokens = random_tokens(case, rows=2, length=19)
  ours = np.asarray(jax.jit(lynx_jax.forward)(lynx_jax.load(checkpoint(case, "bfloat16")), tokens))
  theirs = reference_logits(case, tokens)
  assert np.median(np.abs(ours - theirs).max(axis=-1)) < 0.05 * np.abs(theirs).max()
  assert (ours.argmax(axis=-1) == theirs.argmax(axis=-1)).mean() > 0.9
