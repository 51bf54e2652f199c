"""Likelihoods of continuations, multiple choice and exercises, against one row at a time and the real decode loop."""

import jax
import numpy as np
import pytest

import lynx_jax
from lynx_jax.evals import (
  Continuation,
  Exercise,
  Question,
  answer_questions,
  score_continuations,
  solve_exercises,
)
from lynx_jax.routing import OEA, Prune, TopK
from tests.small_models import random_prompts, small_params, small_spec


@pytest.fixture(scope="module")
def embedded():
  return lynx_jax.load(dtype="float32")


def some_continuations():
  rows = random_prompts([9, 4, 70, 12, 5], seed=2)
  return [Continuation(row[:-asked], row[-asked:]) for row, asked in zip(rows, (3, 1, 5, 8, 2), strict=True)]


@pytest.mark.parametrize("batch", [1, 3])
def test_own_likelihoods_are_those_of_the_forward_pass(batch):
  params, continuations = small_params(), some_continuations()
  scored = score_continuations(params, continuations, policy=TopK(), batch=batch)
  for (context, tokens), found in zip(continuations, scored, strict=True):
    whole = np.array([context + tokens])
    log = np.asarray(jax.nn.log_softmax(lynx_jax.forward(params, whole)[0]))
    expected = log[np.arange(len(context) - 1, whole.size - 1), tokens]
    assert found.log_likelihood == pytest.approx(expected.sum(), abs=1e-3)
    assert found.greedy == (log.argmax(axis=1)[len(context) - 1 : -1].tolist() == tokens)


def test_a_policy_moves_likelihoods_and_reads_fewer_experts():
  params, continuations = small_params(), some_continuations()
  own = score_continuations(params, continuations, policy=TopK(), batch=4)
  few = score_continuations(params, continuations, policy=OEA(1), batch=4)
  # The long row fills a batch by itself, and a lone row runs the model's own routing.
  assert few[2].log_likelihood == pytest.approx(own[2].log_likelihood, abs=1e-4)
  assert any(abs(one.log_likelihood - other.log_likelihood) > 1e-2 for one, other in zip(own, few, strict=True))
  assert np.mean([one.experts for one in few]) < np.mean([one.experts for one in own])


def test_the_most_likely_continuation_is_greedy():
  params = small_params()
  prompt = random_prompts([6])[0]
  tokens = lynx_jax.generate(params, [prompt], max_new_tokens=4)[0].token_ids
  (found,) = score_continuations(params, [Continuation(prompt, list(tokens))], policy=TopK(), batch=2)
  assert found.greedy


def test_long_contexts_lose_their_beginning():
  params = small_params(small_spec(context=16))
  ids = random_prompts([30])[0]
  whole, cut = (
    score_continuations(params, [Continuation(row[:-2], row[-2:])], policy=TopK(), batch=1)[0]
    for row in (ids, ids[-16:])
  )
  assert whole.log_likelihood == pytest.approx(cut.log_likelihood, abs=1e-5)
  with pytest.raises(ValueError, match="continuation 0 has 20 tokens, and the model's context is 16"):
    score_continuations(params, [Continuation([1], ids[:20])], policy=TopK(), batch=1)
  with pytest.raises(ValueError, match="continuation 0 has 0 tokens of context"):
    score_continuations(params, [Continuation([], [1])], policy=TopK(), batch=1)


def test_questions_are_answered_by_likelihood(embedded):
  questions = [
    Question(source="sky", choices=(("The man is", " standing"), ("The man is", " qzxj")), gold=0),
    Question(source="sky", choices=(("She went to the", " vbnm"), ("She went to the", " store")), gold=0),
    Question(source="colours", choices=(("A dog", " is"), ("A dog", "%%")), gold=0),
  ]
  own, pruned = answer_questions(embedded, questions, [TopK(), Prune(1)], batch=4, own=TopK())
  assert [(one.source, one.questions, one.accuracy.value) for one in own] == [("sky", 2, 0.5), ("colours", 1, 1.0)]
  assert [one.agreement.value for one in own] == [1, 1]
  assert pruned[0].experts < own[0].experts


def test_exercises_are_compared_to_the_letter(embedded):
  prompts = ["The man is", "She went to the", "Question: What is"]
  said = [
    one.text.split("\n")[0].strip() for one in lynx_jax.generate(embedded, prompts, max_new_tokens=8, stop=("\n",))
  ]
  exercises = [Exercise(source="same", prompt=p, answer=a) for p, a in zip(prompts[:2], said, strict=False)]
  exercises.append(Exercise(source="other", prompt=prompts[2], answer="no such words"))
  found = solve_exercises(embedded, exercises, TopK(), batch=2)
  longest = max(len(embedded.tokenizer.encode(" " + one.answer)) for one in exercises) + 2
  expected = [
    one.text.split("\n")[0].strip() == answer
    for one, answer in zip(
      lynx_jax.generate(embedded, prompts[:2], max_new_tokens=longest, stop=("\n",)), said, strict=False
    )
  ]
  assert [(one.source, one.solved.value) for one in found] == [("same", np.mean(expected)), ("other", 0)]


def test_text_needs_a_tokenizer():
  question = Question(source="x", choices=(("a", "b"), ("a", "c")), gold=1)
  with pytest.raises(ValueError, match="no tokenizer"):
    answer_questions(small_params(), [question], [TopK()], batch=1, own=TopK())
  with pytest.raises(ValueError, match="no tokenizer"):
    solve_exercises(small_params(), [Exercise(source="x", prompt="a", answer="b")], TopK(), batch=1)


def test_a_question_without_a_right_answer():
  with pytest.raises(ValueError, match="gold is 2 of 2 choices"):
    Question(source="x", choices=(("a", "b"), ("a", "c")), gold=2)
