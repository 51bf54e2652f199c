"""Text in, text out: `generate` waits for whole completions, `stream` hands out pieces as they are decoded."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from lynx_jax.engine.prompts import Prompts
from lynx_jax.engine.sampling import Sampling
from lynx_jax.generation.asynchronous import agenerate, astream
from lynx_jax.generation.batch import run_job
from lynx_jax.generation.job import Job
from lynx_jax.generation.options import Constraints, Errors, Stops
from lynx_jax.generation.results import Completion, Completions, Piece, Timing
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy
from lynx_jax.text.chat import Chats

__all__ = ["Completion", "Piece", "Timing", "agenerate", "astream", "generate", "stream"]


def generate(
  params: Params,
  prompts: Prompts | Chats,
  *,
  max_new_tokens: int | Sequence[int] = 64,
  policy: RoutingPolicy | str | None = None,
  sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008 (frozen)
  stop: Stops = (),
  constraint: Constraints = None,
  stats: bool = False,
  chat: bool | Mapping[str, Any] = False,
  n: int = 1,
  batch: int | None = None,
  errors: Errors = "raise",
  progress: bool = False,
) -> list[Completion]:
  """Completes `prompts`, up to `batch` rows at a time; a row that ends makes room for the next.

  Args:
    params: a loaded model.
    prompts: a string, strings, or lists of token ids; with `chat`, users' messages, or lists of messages with `role`
      and `content` (one list is one conversation). There may be thousands.
    max_new_tokens: tokens to add at most, for all rows or one number a prompt.
    policy: which experts decode steps run, as a policy or as text such as "lynx:alpha=3,beta=2"; None is the model's
      own routing. With a batch-aware policy a row's text depends on the rows that it shares the batch with.
    sampling: for all rows (each with its own random stream), or one a prompt.
    stop: strings that end a row, or a list of them for each prompt; they are not part of the text.
    constraint: what outputs must be, such as JSON of a schema (`Grammars`); one for all, or one a prompt with None for
      anything. A row that its constraint leaves nothing to draw ends with an error.
    stats: whether to report distinct experts, retained mass and bytes (`Completion.stats`, one report a call).
    chat: whether prompts are conversations to answer, by the model's own chat template; a mapping sets variables that
      the template knows, such as `{"enable_thinking": False}`.
    n: samples of each prompt, which is read once for all of them. Greedy samples are the same.
    batch: rows that decode together, at most; None is 64.
    errors: `raise` the first error; or `return` the error of a prompt (bad input, logits that are not finite, a
      tokenizer that fails) in its own completion, while the others go on. What is wrong with the call, or with the
      device, is raised in any case.
    progress: whether to show rows done and tokens a second on standard error.

  Returns:
    One completion a prompt, in order, of the new tokens only; with `n`, the samples of a prompt one after another.

  Raises:
    ValueError: an empty or too long prompt, a token id outside the vocabulary, a string without a tokenizer, `chat`
      without a template, a policy that keeps fewer experts than a token runs. The message names the prompt.
    TypeError: an argument of another kind.
    OutOfMemoryError: a MemoryError that says how much the batch takes and what to lower.
    FloatingPointError: the model produced NaN logits.
    RuntimeError: the tokenizer cannot decode a token that was drawn, or a constraint fails.
  """
  job = Job(
    params, prompts, max_new_tokens=max_new_tokens, policy=policy, sampling=sampling, stop=stop, constraint=constraint,
    stats=stats, chat=chat, n=n, batch=batch, errors=errors,
  )  # fmt: skip
  done = Completions()
  for piece in run_job(job, progress=progress):
    done.add(piece)
  return done.whole()


def stream(
  params: Params,
  prompts: Prompts | Chats,
  *,
  max_new_tokens: int | Sequence[int] = 64,
  policy: RoutingPolicy | str | None = None,
  sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008 (frozen)
  stop: Stops = (),
  constraint: Constraints = None,
  stats: bool = False,
  chat: bool | Mapping[str, Any] = False,
  n: int = 1,
  batch: int | None = None,
  errors: Errors = "raise",
  progress: bool = False,
) -> Generator[Piece, None, None]:
  """As `generate`, token by token: the pieces of a row join to the completion that `generate` gives."""
  job = Job(
    params, prompts, max_new_tokens=max_new_tokens, policy=policy, sampling=sampling, stop=stop, constraint=constraint,
    stats=stats, chat=chat, n=n, batch=batch, errors=errors,
  )  # fmt: skip
  return run_job(job, progress=progress)
