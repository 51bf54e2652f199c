"""lm-evaluation-harness (lm-eval, the extra `eval`) on a lynx_jax model, decoded in batches under a policy.

    python -m lynx_jax.evals.harness --model lynx_jax --tasks arc_easy --model_args policy=auto,batch_size=16

takes every option of `lm_eval`; from Python, give `lm_eval.simple_evaluate` a `LynxLM`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from lynx_jax.engine.sampling import Sampling
from lynx_jax.evals.likelihood import Continuation, score_continuations
from lynx_jax.generation import generate
from lynx_jax.loading import load
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy, TopK, parse_policy


class LynxLM(TemplateLM):
  """A model for the harness: likelihoods from `score_continuations`, texts from `generate`.

  Args:
    pretrained: a checkpoint directory, loaded `Params`, or None for the embedded model.
    policy: a policy, or one as text; which rows share a batch changes what a policy gives, so keep `batch_size`.
    batch_size: rows that decode together.
    max_gen_toks: new tokens where a task does not say.
    dtype: of the weights; None keeps the checkpoint's.
    weights: "int8", "int4" or None, as `load` takes it.
    seed: of the rows that share a batch.

  Raises:
    ValueError: the model has no tokenizer, or no token that can stand before a text.
  """

  def __init__(
    self,
    pretrained: str | Params | None = None,
    policy: str | RoutingPolicy | None = None,
    batch_size: int | str = 16,
    max_gen_toks: int = 256,
    dtype: str | None = None,
    weights: str | None = None,
    seed: int = 0,
    **unused: Any,
  ) -> None:
    super().__init__()
    if wrong := set(unused) - {"device", "max_batch_size"}:
      raise ValueError(
        f"unknown model_args {', '.join(sorted(wrong))}: give pretrained, policy, batch_size, dtype, weights, seed"
      )
    self.params = pretrained if isinstance(pretrained, Params) else load(pretrained, dtype=dtype, weights=weights)
    if self.params.tokenizer is None or not self.params.spec.stop_ids:
      raise ValueError("the harness needs a checkpoint with a tokenizer and a stop token")
    self._tokenizer = self.params.tokenizer
    self.policy = parse_policy(policy) if isinstance(policy, str) else policy or TopK()
    self.batch_size, self.max_gen_toks, self._seed = int(batch_size), int(max_gen_toks), int(seed)

  @property
  def eot_token_id(self) -> int:
    """The token that ends a text, and stands before one that has no context."""
    return self.params.spec.stop_ids[0]

  @property
  def tokenizer_name(self) -> str:
    """The name of the chat template in the harness's cache."""
    return self._tokenizer.fingerprint

  def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
    """Token ids, with the special tokens that the tokenizer adds unless told not to."""
    return self._tokenizer.encode(string, add_special_tokens=add_special_tokens is not False)

  def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """The checkpoint's own template."""
    return self._tokenizer.apply_chat(chat_history, add_generation_prompt=add_generation_prompt)

  def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
    """Log-likelihood of whole texts, each token once, in windows of the model's context."""
    windows, owners = [], []
    for index, request in enumerate(requests):
      (text,) = request.args
      rolling = get_rolling_token_windows(
        token_list=self.tok_encode(text), prefix_token=self.prefix_token_id,
        max_seq_len=self.params.spec.context - 1, context_len=1,
      )  # fmt: skip
      for window in map(make_disjoint_window, rolling):
        windows.append(Continuation(*window))
        owners.append(index)
    totals = [0.0] * len(requests)
    for owner, (likelihood, _) in zip(owners, self._score(windows), strict=True):
      totals[owner] += likelihood
    return totals

  def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
    """Texts up to the first of a request's stop strings.

    Where rows are routed one by one, all requests are one call, and a row that ends makes room for the next. Under a
    batch-aware policy a text depends on the rows beside it: requests of one kind share batches, which stay together.
    """
    answers = [""] * len(requests)
    asked = [_asked(request, self.max_gen_toks) for request in requests]
    batches = _batches(asked, self.batch_size)
    streams = {index: stream for batch in batches for stream, index in enumerate(batch)}
    apart = self.policy.batch_aware
    for call in batches if apart or not requests else [range(len(requests))]:
      done = generate(
        self.params,
        [self._fitting(asked[index].context, asked[index].kind.new_tokens) for index in call],
        max_new_tokens=[asked[index].kind.new_tokens for index in call],
        policy=self.policy,
        sampling=[
          Sampling(temperature=asked[index].kind.temperature, seed=self._seed, stream=streams[index]) for index in call
        ],
        stop=[asked[index].kind.until for index in call],
        batch=self.batch_size,
        progress=not disable_tqdm and not apart,
      )
      for index, completion in zip(call, done, strict=True):
        answers[index] = completion.text
    return answers

  def _fitting(self, context: str, new_tokens: int) -> list[int]:
    """The last tokens of a context, as many as leave room for `new_tokens`."""
    room = max(1, self.params.spec.context - new_tokens)
    return (self.tok_encode(context) or [self.prefix_token_id])[-room:]

  def _loglikelihood_tokens(
    self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
  ) -> list[tuple[float, bool]]:
    return self._score([Continuation(context, tokens) for _, context, tokens in requests])

  def _score(self, continuations: list[Continuation]) -> list[tuple[float, bool]]:
    scored = score_continuations(self.params, continuations, policy=self.policy, batch=self.batch_size, seed=self._seed)
    return [(one.log_likelihood, one.greedy) for one in scored]


class _Kind(NamedTuple):
  """What a task asks for besides the context."""

  until: tuple[str, ...]
  new_tokens: int
  temperature: float


class _Asked(NamedTuple):
  """A context to continue, and how."""

  context: str
  kind: _Kind


def _asked(request: Instance, new_tokens: int) -> _Asked:
  context, options = cast(Any, request.args)
  until = options.get("until") or []
  until = (until,) if isinstance(until, str) else tuple(until)
  temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
  return _Asked(context, _Kind(until, options.get("max_gen_toks", new_tokens), temperature))


def _batches(asked: Sequence[_Asked], size: int) -> list[list[int]]:
  """Indices of requests of one kind, so many at a time."""
  kinds: dict[_Kind, list[int]] = {}
  for index, one in enumerate(asked):
    kinds.setdefault(one.kind, []).append(index)
  return [indices[at : at + size] for indices in kinds.values() for at in range(0, len(indices), size)]


# Called and not a decorator: its declared result would hide this class's own arguments from a type checker.
register_model("lynx_jax")(LynxLM)


if __name__ == "__main__":
  from lm_eval.__main__ import cli_evaluate

  cli_evaluate()
