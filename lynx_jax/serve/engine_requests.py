"""From the fields of a body to the engine's requests."""

import dataclasses
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from lynx_jax.engine.host.adjustments import Adjustments
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.host.sampling import Sampling
from lynx_jax.serve.errors import ApiError, refused
from lynx_jax.serve.prompts import Prompt
from lynx_jax.serve.schema import Body, Decoding
from lynx_jax.serve.served import Served

_WITHOUT_EFFECT = frozenset({
  "user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
  "verbosity",
})  # fmt: skip
"""OpenAI's fields that change no text."""
_REMEDIES = {"functions": "give tools", "function_call": "give tool_choice"}
_UNSERVED: Mapping[str, tuple[Any, ...]] = {
  "functions": (None, []),
  "function_call": (None, "none", "auto"),
  "bad_words": (None, []),
  "modalities": (None, ["text"]),
  "audio": (None,),
  "prediction": (None,),
  "web_search_options": (None,),
  "chat_template": (None,),
  "use_beam_search": (None, False),
  "suffix": (None, ""),
}
"""Fields that would change the text and are not served, with the values that ask for nothing."""


def check_fields(served: Served, body: Body) -> list[str]:
  """The fields of a body, and of its messages, that nobody knows.

  Raises:
    ApiError: a field asks for what is not served; or, in a strict server, nobody knows it.
  """
  given = body.model_extra or {}
  for name, harmless in _UNSERVED.items():
    value = given.get(name)
    # Equality alone would take False for 0.
    if not any(type(value) is type(one) and value == one for one in harmless) and not _is_zero(value, harmless):
      raise refused(name, value, f"{harmless[-1]!r}", _REMEDIES.get(name, "it is not served"))
  unknown = [name for name in given if name not in _UNSERVED and name not in _WITHOUT_EFFECT]
  if unknown and served.settings.strict:
    name = unknown[0][:200]
    raise ApiError(400, f"{name!r} is no field of this request: leave it out", param=name, code="unknown_field")
  return unknown


def requests_of(
  served: Served, body: Decoding, prompts: Sequence[Prompt], answer_id: str, **changes: Any
) -> list[Request]:
  """One request a choice: the first prompt's `n`, then the next one's.

  Args:
    served: the engine.
    body: what the client asks for.
    prompts: what to continue.
    answer_id: what the requests' names begin with.
    changes: fields of `Request` that depend on the endpoint; `max_new_tokens` None is all that fits.

  Raises:
    ApiError: too many choices, or more tokens than fit.
  """
  samples = body.n or 1
  most = served.settings.most_choices
  if len(prompts) * samples > most:
    raise refused("n", samples, f"at most {most} choices, prompts times n")
  sampling, tokens = _sampling(body), changes.pop("max_new_tokens")
  shared = {
    "stop_token_ids": frozenset(body.stop_token_ids or ()),
    "stop_strings": tuple([body.stop] if isinstance(body.stop, str) else body.stop or ()),
    "ignore_eos": bool(body.ignore_eos),
    "adjustments": _adjustments(body, tokens),
    "quality": body.quality or served.settings.quality,
    "priority": body.priority or 0,
    "cache_salt": body.cache_salt or "",
    "return_routing": bool(body.return_routing),
    **changes,
  }
  try:
    return [
      Request(
        id=f"{answer_id}-{number * samples + sample}",
        prompt=prompt.ids,
        max_new_tokens=_new_tokens(served, prompt, tokens),
        sampling=dataclasses.replace(sampling, stream=sample),
        **shared,
      )
      for number, prompt in enumerate(prompts)
      for sample in range(samples)
    ]
  except ValueError as error:
    raise ApiError(400, str(error)) from error


def ignored_header(unknown: Sequence[str]) -> dict[str, str]:
  """The header that names fields which were ignored; none if there are none."""
  return {"x-lynx-ignored": ", ".join(_printable(unknown))} if unknown else {}


def _printable(names: Sequence[str], most: int = 16) -> list[str]:
  """Names as a header can hold them: what a client wrote must not become a header of its own."""
  return [re.sub(r"[^A-Za-z0-9_.-]", "?", name[:64]) for name in names[:most]]


def _is_zero(value: Any, harmless: tuple[Any, ...]) -> bool:
  """Whether a number is one of the harmless ones, as an int or as a float."""
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return number and any(isinstance(one, int) and not isinstance(one, bool) and value == one for one in harmless)


def _sampling(body: Decoding) -> Sampling:
  """How tokens are drawn. OpenAI's defaults: temperature 1, a seed that nobody knows."""
  temperature = 1.0 if body.temperature is None else body.temperature
  seed = secrets.randbits(32) if body.seed is None else body.seed % 2**32
  return Sampling(
    temperature=temperature,
    top_k=max(body.top_k or 0, 0),
    # OpenAI allows 0, which keeps the likeliest token.
    top_p=1.0 if body.top_p is None else max(body.top_p, 1e-9),
    min_p=body.min_p or 0.0,
    seed=seed,
  )


def _adjustments(body: Decoding, most_tokens: int | None) -> Adjustments:
  """What changes in the logits."""
  biases = []
  for token, bias in (body.logit_bias or {}).items():
    if not token.isdecimal() or not token.isascii() or len(token) > 9:
      raise refused("logit_bias", token, "token ids, in decimal, as keys")
    biases.append((int(token), bias))
  least = body.min_tokens or 0
  if most_tokens is not None and least > most_tokens:
    raise refused("min_tokens", least, f"at most max_tokens, {most_tokens}")
  return Adjustments(
    repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
    frequency_penalty=body.frequency_penalty or 0.0,
    presence_penalty=body.presence_penalty or 0.0,
    logit_bias=tuple(biases),
    min_tokens=least,
  )


def _new_tokens(served: Served, prompt: Prompt, asked: int | None) -> int:
  room = served.room - len(prompt.ids)
  if asked is None:
    if not room:
      message = f"the prompt has {len(prompt.ids)} tokens, which leaves no room in the context: shorten it"
      raise ApiError(400, message, code="context_length_exceeded")
    return room
  if asked > room:
    message = (
      f"max_tokens is {asked}: expected at most {room}; the prompt has {len(prompt.ids)} tokens, and both must fit "
      f"the context of {served.room}"
    )
    raise ApiError(400, message, param="max_tokens", code="context_length_exceeded")
  return asked
