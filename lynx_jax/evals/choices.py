"""Multiple choice by likelihood: the model answers with the continuation that it finds most likely."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from lynx_jax.evals.bootstrap import Interval, ratio
from lynx_jax.evals.likelihood import Continuation, score_continuations
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy
from lynx_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
  """A question: several continuations, one of them right.

  Attributes:
    source: the set of questions that it is from.
    choices: (context, continuation) of each answer; contexts may differ, as in Winogrande.
    gold: index of the right one.
  """

  source: str
  choices: tuple[tuple[str, str], ...]
  gold: int

  def __post_init__(self) -> None:
    if len(self.choices) < 2 or not 0 <= self.gold < len(self.choices):
      raise ValueError(
        f"gold is {self.gold} of {len(self.choices)} choices: give two or more, and one of their indices"
      )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
  """The share of one source's questions that were answered correctly.

  Attributes:
    source: the set of questions.
    questions: how many.
    accuracy: share whose right continuation has the largest log-likelihood.
    by_byte: the same by log-likelihood a byte, which does not favour short answers.
    agreement: share on which `accuracy`'s choice is that of the model's own routing.
    experts: distinct experts a layer and step, mean over answers.
  """

  source: str
  questions: int
  accuracy: Interval
  by_byte: Interval
  agreement: Interval
  experts: float


@dataclasses.dataclass(frozen=True, slots=True)
class _Answers:
  chosen: np.ndarray
  chosen_by_byte: np.ndarray
  experts: np.ndarray


def answer_questions(
  params: Params,
  questions: Sequence[Question],
  policies: Sequence[RoutingPolicy],
  *,
  batch: int,
  own: RoutingPolicy,
  progress: Callable[[int], None] = lambda done: None,
) -> list[list[Accuracy]]:
  """Accuracy of each policy on each source, decoded `batch` rows at a time, with intervals over questions.

  Args:
    params: a loaded model with a tokenizer.
    questions: of any number of sources, which share batches.
    policies: each answers everything.
    batch: rows of a decode batch; a row is one answer to one question.
    own: the policy that agreement is measured against.
    progress: called with the number of answers scored under the policy at work.

  Raises:
    ValueError: the model has no tokenizer.
  """
  if params.tokenizer is None:
    raise ValueError("this checkpoint has no tokenizer: questions are text")
  tokenizer = params.tokenizer
  continuations = [encode_continuation(tokenizer, *choice) for question in questions for choice in question.choices]

  def answers(policy: RoutingPolicy) -> _Answers:
    scored = score_continuations(params, continuations, policy=policy, batch=batch, progress=progress)
    chosen, by_byte, experts, at = [], [], [], 0
    for question in questions:
      of_question = scored[at : at + len(question.choices)]
      at += len(question.choices)
      likelihoods = np.array([one.log_likelihood for one in of_question])
      sizes = np.array([len(text.encode()) for _, text in question.choices])
      chosen.append(int(likelihoods.argmax()))
      by_byte.append(int((likelihoods / sizes).argmax()))
      experts.append(np.mean([one.experts for one in of_question]))
    return _Answers(np.array(chosen), np.array(by_byte), np.array(experts))

  reference = answers(own)
  return [_accuracies(questions, reference if policy == own else answers(policy), reference) for policy in policies]


def encode_continuation(tokenizer: Tokenizer, context: str, text: str) -> Continuation:
  """Encodes context and continuation together, and splits the tokens where the context ends.

  A space at the end of the context moves to the continuation, because tokenizers join a space to the next word.
  """
  bare = context.rstrip()
  text = context[len(bare) :] + text
  whole, given = tokenizer.encode(bare + text), tokenizer.encode(bare)
  return Continuation(whole[: len(given)], whole[len(given) :])


def _accuracies(questions: Sequence[Question], found: _Answers, own: _Answers) -> list[Accuracy]:
  sources = np.array([question.source for question in questions])
  gold = np.array([question.gold for question in questions])

  def share(right: np.ndarray) -> Interval:
    return ratio(right.astype(np.float64), np.ones(len(right)))

  accuracies = []
  for source in dict.fromkeys(sources.tolist()):
    of = sources == source
    accuracies.append(
      Accuracy(
        source=source,
        questions=int(of.sum()),
        accuracy=share(found.chosen[of] == gold[of]),
        by_byte=share(found.chosen_by_byte[of] == gold[of]),
        agreement=share(found.chosen[of] == own.chosen[of]),
        experts=float(found.experts[of].mean()),
      )
    )
  return accuracies
