"""Log-likelihoods of continuations, decoded in batches under a policy."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32

from lynx_jax.evals.decoding import Texts, decoded_hidden
from lynx_jax.evals.faithful import distinct_experts
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy

# Rows are padded to one of these lengths, so that few programs are compiled.
_STEP = 64


class Continuation(NamedTuple):
  """Tokens that are given (at least one), and tokens whose likelihood is asked for."""

  context: list[int]
  tokens: list[int]


class Scored(NamedTuple):
  """The score of one continuation.

  Attributes:
    log_likelihood: of its tokens, summed, in nats.
    greedy: whether each of them was the most likely one.
    experts: distinct experts a layer and step of the batch that it was in.
  """

  log_likelihood: float
  greedy: bool
  experts: float


def score_continuations(
  params: Params,
  continuations: Sequence[Continuation],
  *,
  policy: RoutingPolicy,
  batch: int,
  seed: int = 0,
  progress: Callable[[int], None] = lambda done: None,
) -> list[Scored]:
  """Scores in order, of continuations that decode `batch` at a time under `policy`.

  The context is prefilled but for its last token, so that every token of the continuation is scored by a decode step.
  Which rows share a batch is drawn with `seed` from those of similar length; so the answers to one question, which
  begin alike and would share experts beyond what a server sees, are seldom together. What does not fit the model's
  context loses its beginning.

  Raises:
    ValueError: a context or a continuation is empty, or a continuation alone exceeds the model's context.
  """
  limit = params.spec.context
  for index, (context, tokens) in enumerate(continuations):
    if not context or not tokens:
      raise ValueError(
        f"continuation {index} has {len(context)} tokens of context and {len(tokens)} to score: give both"
      )
    if len(tokens) >= limit:
      raise ValueError(f"continuation {index} has {len(tokens)} tokens, and the model's context is {limit}: cut it")
  rows = [((context + tokens)[-limit:], len(tokens)) for context, tokens in continuations]
  scored: list[Scored | None] = [None] * len(rows)
  done = 0
  for padded, indices in _batches([len(tokens) for tokens, _ in rows], batch, seed):
    texts = _texts([rows[index] for index in indices], batch, padded)
    found = jax.device_get(_score(params, texts, policy=policy))
    for at, index in enumerate(indices):
      scored[index] = Scored(float(found[0][at]), bool(found[1][at]), float(found[2]))
    progress(done := done + len(indices))
  return [one for one in scored if one is not None]


def _batches(lengths: list[int], batch: int, seed: int) -> list[tuple[int, list[int]]]:
  """Groups rows of the same padded length, in random order. Each group is a padded length and indices of rows."""
  padded = [-(-length // _STEP) * _STEP for length in lengths]
  random = np.random.default_rng(seed)
  found = []
  for size in sorted(set(padded)):
    pool = random.permutation([index for index, length in enumerate(padded) if length == size]).tolist()
    found += [(size, pool[at : at + batch]) for at in range(0, len(pool), batch)]
  return found


def _texts(rows: list[tuple[list[int], int]], batch: int, padded: int) -> Texts:
  """Lays out rows of tokens as a batch. Missing rows are empty, so they never run."""
  tokens, lengths, prompts = np.zeros((batch, padded), np.int32), np.zeros(batch, np.int32), np.zeros(batch, np.int32)
  for at, (ids, asked) in enumerate(rows):
    tokens[at, : len(ids)], lengths[at], prompts[at] = ids, len(ids), len(ids) - asked - 1
  return Texts(jnp.asarray(tokens), jnp.asarray(lengths), jnp.asarray(prompts))


@functools.partial(jax.jit, static_argnames="policy")
def _score(
  params: Params, texts: Texts, *, policy: RoutingPolicy
) -> tuple[Float32[Array, "B"], Bool[Array, "B"], Float32[Array, ""]]:
  """Log-likelihood of each row's judged tokens, whether all are the most likely, and mean distinct experts."""
  hidden, traces = decoded_hidden(params, texts, policy)

  def of_row(inputs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    hidden, targets, judged = inputs
    log = jax.nn.log_softmax(params.decoder.logits(hidden))
    chosen = jnp.take_along_axis(log, targets[:, None], axis=-1)[:, 0]
    return jnp.sum(jnp.where(judged, chosen, 0.0)), jnp.all(~judged | (jnp.argmax(log, axis=-1) == targets))

  likelihood, greedy = jax.lax.map(of_row, (hidden, texts.targets, texts.judged))
  experts = [
    distinct_experts(trace.routing.ids, trace.routing.weights > 0, texts, trace.logits.shape[1]) for trace in traces
  ]
  return likelihood, greedy, jnp.mean(jnp.stack(experts))
