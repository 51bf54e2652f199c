"""Prompts as token ids: text, conversations or ids, checked against the vocabulary and the context."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, TypeAlias, cast

import jax
import numpy as np

from lynx_jax.models.params import Params
from lynx_jax.text.chat import Chats, chat_prompt, listed_chats
from pallas_kernels.checks import plain_number, shown

Prompts: TypeAlias = str | Sequence[str] | Sequence[Sequence[int]]

_EXPECTED = "expected a string or a list of token ids"
_BYTES = (bytes, bytearray, memoryview)


def encode_prompts(
  params: Params, prompts: Prompts | Chats, chat: bool | Mapping[str, Any] = False, context: int | None = None
) -> list[list[int]]:
  """Token ids of each prompt.

  Args:
    params: a loaded model.
    prompts: a string, strings, or lists of token ids; with `chat`, users' messages or conversations.
    chat: whether prompts are conversations; a mapping sets variables of the chat template.
    context: positions of the engine that is to run them; None is the model's own context.

  Raises:
    ValueError: a prompt is empty, too long, holds an id outside the vocabulary, or is text without a tokenizer.
    TypeError: something else was given than prompts.
  """
  return [encode() for encode in _encoders(params, prompts, chat, context)]


def encode_or_fail(
  params: Params, prompts: Prompts | Chats, chat: bool | Mapping[str, Any] = False, context: int | None = None
) -> list[list[int] | Exception]:
  """As `encode_prompts`, with its error in the place of each prompt that has one.

  Raises:
    ValueError: there is no prompt, or `chat` is asked for without a tokenizer.
    TypeError: something else was given than prompts.
  """

  def result(encode: Callable[[], list[int]]) -> list[int] | Exception:
    try:
      return encode()
    except Exception as error:  # a tokenizer or a template can raise whatever it likes
      return error

  return [result(encode) for encode in _encoders(params, prompts, chat, context)]


def _encoders(
  params: Params, prompts: Prompts | Chats, chat: bool | Mapping[str, Any], context: int | None
) -> list[Callable[[], list[int]]]:
  """What gives the ids of each prompt, or raises its error. Raises now what is wrong with all of them."""
  if not isinstance(chat, bool | Mapping):
    raise TypeError(f"chat is {shown(chat)}: expected True, False, or a mapping of the chat template's variables")
  if chat is False:
    several = [prompts] if isinstance(prompts, str) else _listed(prompts)
    encode = functools.partial(_encode, params)
  else:
    # An empty mapping asks for chat too.
    several = listed_chats(params.tokenizer, cast("Chats", prompts))
    encode = functools.partial(_encode_chat, params, {} if chat is True else chat)
  if not several:
    raise ValueError("prompts is empty: give at least one prompt")
  room = ("model", params.spec.context) if context is None else ("engine", context)
  return [functools.partial(_fitting, encode, index, prompt, *room) for index, prompt in enumerate(several)]


def _listed(prompts: Any) -> list[Any]:
  """Several prompts as a list; TypeError for anything that is not a list of prompts."""
  if isinstance(prompts, (*_BYTES, Mapping, Set)) or not isinstance(prompts, Iterable):
    remedy = _remedy(prompts) or "give a string, a list of strings, or a list of lists of token ids"
    raise TypeError(f"prompts is {shown(prompts)}: expected prompts; {remedy}")
  several = list(prompts)
  if several and all(plain_number(token) is not None for token in several):
    raise TypeError(
      f"prompts is {shown(several)}: expected prompts, and these are token ids; put them in a list, as one prompt"
    )
  return several


def _remedy(given: object) -> str | None:
  """What to do about values that look like prompts and are none."""
  if isinstance(given, _BYTES):
    return "decode bytes to a string first, such as with .decode()"
  if isinstance(given, Mapping):
    return "a mapping is no prompt; put messages in a list and give chat=True"
  return "a set has no order; give a list" if isinstance(given, Set) else None


def _encode(params: Params, index: int, prompt: object) -> list[int]:
  if isinstance(prompt, str):
    return _encode_text(params, index, prompt)
  if isinstance(prompt, Sequence | np.ndarray | jax.Array) and not isinstance(prompt, _BYTES):
    tokens = np.asarray(prompt) if isinstance(prompt, jax.Array) else prompt
    return [_token_id(index, token, params.spec.vocab) for token in tokens]
  remedy = _remedy(prompt)
  raise TypeError(f"prompt {index} is {shown(prompt)}: {_EXPECTED}{f'; {remedy}' if remedy else ''}")


def _encode_chat(params: Params, variables: Mapping[str, Any], index: int, chat: object) -> list[int]:
  assert params.tokenizer is not None
  return _inside(index, chat_prompt(params.tokenizer, index, chat, variables), params.spec.vocab)


def _encode_text(params: Params, index: int, text: str) -> list[int]:
  if params.tokenizer is None:
    raise ValueError(f"prompt {index} is text, but this checkpoint has no tokenizer: give lists of token ids")
  try:
    ids = params.tokenizer.encode(text)
  except ValueError as error:
    raise ValueError(f"prompt {index}: {error}") from error
  return _inside(index, ids, params.spec.vocab)


def _inside(index: int, ids: list[int], vocab: int) -> list[int]:
  """Returns a tokenizer's `ids`; ValueError if the model's vocabulary lacks one."""
  if ids and max(ids) >= vocab:
    raise ValueError(
      f"prompt {index} becomes token id {max(ids)}, and the model's vocabulary has ids 0 to {vocab - 1}: the tokenizer "
      f"does not belong to this model; take the tokenizer files that came with its weights"
    )
  return ids


def _fitting(
  encode: Callable[[int, object], list[int]], index: int, prompt: object, whose: str, context: int
) -> list[int]:
  """Ids of a prompt; ValueError if there are none, or no room for one more in the context."""
  ids = encode(index, prompt)
  if not ids:
    raise ValueError(f"prompt {index} is empty: give it at least one token")
  if len(ids) >= context:
    raise ValueError(
      f"prompt {index} has {len(ids)} tokens, which leaves no room in the {whose}'s context of {context}: shorten it"
    )
  return ids


def _token_id(index: int, token: object, vocab: int) -> int:
  value = plain_number(token)
  if not isinstance(value, int):
    raise TypeError(f"prompt {index} holds {shown(token)}: expected token ids, as whole numbers")
  if not 0 <= value < vocab:
    raise ValueError(f"prompt {index} holds token id {value}: the vocabulary has ids 0 to {vocab - 1}")
  return value
