"""lm-evaluation-harness (lm-eval, the extra `eval`) on a lynx_jax model, decoded in batches under a policy.

    python -m lynx_jax.evals.harness --model lynx_jax --tasks arc_easy --model_args policy=auto,batch_size=16

takes every option of `lm_eval`; from Python, give `lm_eval.simple_evaluate` a `LynxLM`.
"""

from typing import Any, cast

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
    """Texts up to the first of a request's stop strings; requests of one kind share batches."""
    answers = [""] * len(requests)
    kinds: dict[tuple, list[int]] = {}
    for index, request in enumerate(requests):
      options: dict[str, Any] = cast(Any, request.args)[1]
      until = options.get("until") or []
      until = (until,) if isinstance(until, str) else tuple(until)
      temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
      kinds.setdefault((until, options.get("max_gen_toks", self.max_gen_toks), temperature), []).append(index)
    for (until, new_tokens, temperature), indices in kinds.items():
      for at in range(0, len(indices), self.batch_size):
        batch = indices[at : at + self.batch_size]
        prompts = [self._fitting(requests[index].args[0], new_tokens) for index in batch]
        done = generate(
          self.params, prompts, max_new_tokens=new_tokens, policy=self.policy, stop=until,
          sampling=Sampling(temperature=temperature, seed=self._seed),
        )  # fmt: skip
        for index, completion in zip(batch, done, strict=True):
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


# Called and not a decorator: its declared result would hide this class's own arguments from a type checker.
register_model("lynx_jax")(LynxLM)


if __name__ == "__main__":
  from lm_eval.__main__ import cli_evaluate

  cli_evaluate()
