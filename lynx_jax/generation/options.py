"""What the arguments of a call mean for each prompt, and what is said of wrong ones."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax
import numpy as np

from lynx_jax.engine.host.constraint import Constraint
from lynx_jax.engine.sampling import Sampling
from lynx_jax.models.params import Params
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.routing import RoutingPolicy, as_policy
from pallas_kernels.checks import require, shown, whole_number

Stops: TypeAlias = str | Sequence[str] | Sequence[Sequence[str]]
"""A string, several for all prompts, or a list (not a string) of them for each prompt."""
Errors: TypeAlias = Literal["raise", "return"]
Constraints: TypeAlias = Constraint | Sequence[Constraint | None] | None
"""What outputs must be: of all prompts, or of each."""


def checked_model(params: object) -> Params:
  """The model; TypeError for something else."""
  if not isinstance(params, Params):
    raise TypeError(f"params is {shown(params)}: expected a loaded model, such as lynx_jax.load('model directory')")
  return params


def checked_policy(policy: RoutingPolicy | str | None, spec: DecoderSpec) -> RoutingPolicy | None:
  """The policy, read if it is text. Raises now if it cannot serve some layer, instead of while tracing."""
  if policy is None:
    return None
  policy = as_policy(policy)
  for moe in spec.moe_specs:
    policy.check_sizes(moe.experts, moe.top_k)
  return policy


def checked_errors(errors: str) -> bool:
  """Whether errors are returned, and not raised."""
  require(errors in get_args(Errors), "errors", errors, "'raise' or 'return'")
  return errors == "return"


def limits_each(max_new_tokens: int | Sequence[int], prompts: int) -> list[int]:
  """How many tokens each prompt's rows may add."""
  each = _one_a_prompt("max_new_tokens", max_new_tokens, prompts)
  return [whole_number("max_new_tokens", limit, least=1, most=np.iinfo(np.int32).max) for limit in each]


def sampling_each(sampling: Sampling | Sequence[Sampling], prompts: int) -> Sampling | list[Sampling]:
  """One for all, as it is, or one for each prompt."""
  each = [sampling] if isinstance(sampling, Sampling) else _one_a_prompt("sampling", sampling, prompts)
  for one in each:
    if not isinstance(one, Sampling):
      raise TypeError(
        f"sampling is {shown(one)}: expected a Sampling, such as Sampling(temperature=0.7), or one a prompt"
      )
  return sampling if isinstance(sampling, Sampling) else each


def constraints_each(constraint: Constraints, prompts: int) -> list[Constraint | None]:
  """What the outputs of each prompt's rows must be."""
  each = _one_a_prompt("constraint", constraint, prompts)
  for one in each:
    if one is not None and not isinstance(one, Constraint):
      raise TypeError(f"constraint is {shown(one)}: expected a Constraint, such as Grammars(...).json(schema), or None")
  return each


def stops_each(params: Params, stop: Stops, prompts: int) -> list[tuple[str, ...]]:
  """The strings that end each prompt's rows."""
  apart = isinstance(stop, Sequence) and not isinstance(stop, str) and any(not isinstance(one, str) for one in stop)
  each = _one_a_prompt("stop", stop, prompts) if apart else [(stop,) if isinstance(stop, str) else stop] * prompts
  checked = [_strings(strings) for strings in each]
  if None in checked:
    expected = "expected a string, or strings, none empty; () is none; or a list of strings for each prompt"
    raise ValueError(f"stop is {shown(stop)}: {expected}")
  if any(checked) and params.tokenizer is None:
    raise ValueError("stop strings need a tokenizer, and this checkpoint has none")
  return [strings for strings in checked if strings is not None]


def _strings(given: Any) -> tuple[str, ...] | None:
  """Strings, none empty; None for anything else."""
  several = isinstance(given, Sequence) and not isinstance(given, str)
  return tuple(given) if several and all(isinstance(one, str) and one for one in given) else None


def _one_a_prompt(name: str, values: Any, prompts: int) -> list[Any]:
  """`values` as a list with one entry a prompt."""
  array = isinstance(values, np.ndarray | jax.Array) and values.ndim > 0
  if not array and (isinstance(values, str) or not isinstance(values, Sequence)):
    return [values] * prompts
  several = list(values)
  if len(several) != prompts:
    raise ValueError(f"{name} has {len(several)} entries for {prompts} prompts: give one for all, or one each")
  return several
