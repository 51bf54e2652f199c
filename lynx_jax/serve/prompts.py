"""Prompts as token ids: texts, lists of ids, and conversations."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lynx_jax.serve.errors import ApiError, refused
from lynx_jax.serve.schema import Message
from lynx_jax.serve.served import Served
from lynx_jax.text.tokenizer import Tokenizer

_FEW_CHARACTERS = 1024
"""Text that is tokenized at once; longer text goes to a thread."""


class Prompt(NamedTuple):
  """What a model continues.

  Attributes:
    ids: token ids, at least one.
    text: as the client wrote it; None if it gave ids.
  """

  ids: tuple[int, ...]
  text: str | None


async def read_prompts(served: Served, given: Any, most: int) -> list[Prompt]:
  """The prompts of a completion: a text, token ids, or a list of either.

  Raises:
    ApiError: it is none of these, too many, too long, or text without a tokenizer.
  """
  several = isinstance(given, list) and (not given or isinstance(given[0], str | list))
  prompts: list[Any] = given if several else [given]
  if not prompts:
    raise refused("prompt", given, "at least one prompt")
  if len(prompts) > most:
    raise ApiError(400, f"prompt holds {len(prompts)} prompts: expected at most {most}", param="prompt")
  read = []
  for index, prompt in enumerate(prompts):
    param = f"prompt.{index}" if several else "prompt"
    if isinstance(prompt, str):
      ids = await encode(served, prompt, param)
      read.append(Prompt(tuple(ids), prompt))
    else:
      read.append(Prompt(_token_ids(served, prompt, param), None))
    _check_room(served, len(read[-1].ids), param)
  return read


async def read_chat(
  served: Served, messages: Sequence[Message], options: Mapping[str, Any], *, open_end: bool
) -> Prompt:
  """The prompt of a conversation, by the model's own template; `open_end` lets its last message go on.

  Raises:
    ApiError: there is no tokenizer or template, the template refuses the messages, or they are too long.
  """
  tokenizer = _tokenizer(served, "messages")
  try:
    turns = [_turn(tokenizer, message) for message in messages]
  except (ValueError, RecursionError) as error:
    raise refused("messages", "nested too deep", "fields of fewer levels") from error
  _check_length(served, sum(len(str(turn.get("content") or "")) for turn in turns), "messages")
  try:
    text = await served.in_thread(_render, tokenizer, turns, dict(options), open_end)
  except (ValueError, TypeError) as error:
    raise ApiError(400, str(error), param="messages") from error
  # The template has written the special tokens already.
  ids = await encode(served, text, "messages", add_special_tokens=False)
  _check_room(served, len(ids), "messages")
  return Prompt(tuple(ids), text)


async def encode(served: Served, text: str, param: str, *, add_special_tokens: bool = True) -> list[int]:
  """Token ids of a text; ApiError where there can be none, or where they cannot fit."""
  tokenizer = _tokenizer(served, param)
  _check_length(served, len(text), param)
  try:
    if len(text) <= _FEW_CHARACTERS:
      ids = tokenizer.encode(text, add_special_tokens=add_special_tokens)
    else:
      ids = await served.in_thread(lambda: tokenizer.encode(text, add_special_tokens=add_special_tokens))
  except ValueError as error:
    raise ApiError(400, f"{param}: {error}", param=param) from error
  if ids and max(ids) >= served.params.spec.vocab:
    raise ApiError(
      400, f"{param} becomes a token that the model has not: the tokenizer is another model's", param=param
    )
  return ids


def check_token_ids(served: Served, given: Any, param: str) -> list[int]:
  """Token ids of the model's vocabulary; ApiError for anything else."""
  vocab = served.params.spec.vocab
  expected = f"a list of token ids: whole numbers from 0 to {vocab - 1}"
  if not isinstance(given, list):
    raise refused(param, given, expected)
  for token in given:
    if type(token) is not int or not 0 <= token < vocab:
      raise refused(param, token, expected)
  return given


def _token_ids(served: Served, given: Any, param: str) -> tuple[int, ...]:
  if not isinstance(given, list):
    raise refused(param, given, "a text or a list of token ids")
  # Before each of a million ids is looked at.
  _check_room(served, len(given), param)
  return tuple(check_token_ids(served, given, param))


def _tokenizer(served: Served, param: str) -> Tokenizer:
  if served.tokenizer is None:
    raise ApiError(400, f"{param} is text, and this model has no tokenizer: send token ids", param=param)
  return served.tokenizer


def _turn(tokenizer: Tokenizer, message: Message) -> dict[str, Any]:
  """A message as templates know it: its text in one piece."""
  turn = message.model_dump(exclude_none=True)
  if message.tool_calls and message.content is None:
    # Templates join it to the calls.
    turn["content"] = ""
  if isinstance(message.content, list):
    turn["content"] = "".join(part.text for part in message.content)
  for call in turn.get("tool_calls", ()):
    call.setdefault("type", "function")
  if message.reasoning_content is not None and "thinking" in (tokenizer.chat_template or ""):
    # The name that gpt-oss has for it.
    turn.setdefault("thinking", message.reasoning_content)
  if message.role == "developer" and "developer" not in (tokenizer.chat_template or ""):
    turn["role"] = "system"
  return turn


def _render(tokenizer: Tokenizer, turns: list[dict[str, Any]], options: dict[str, Any], open_end: bool) -> str:
  if open_end:
    options = options | {"add_generation_prompt": False}
  text = _applied(tokenizer, turns, options)
  if not open_end:
    return text
  last = str(turns[-1].get("content", "")).strip()
  end = text.rfind(last)
  if not last or end < 0:
    raise ValueError("continue_final_message is True: expected False; the template does not show the last message")
  return text[: end + len(last)]


def _applied(tokenizer: Tokenizer, turns: list[dict[str, Any]], options: dict[str, Any]) -> str:
  """The text of a conversation. Most templates want arguments of calls as objects, some as text."""
  objects = [_with_objects(turn) for turn in turns]
  try:
    return tokenizer.apply_chat(objects, **options)
  except ValueError:
    if objects == turns:
      raise
    return tokenizer.apply_chat(turns, **options)


def _with_objects(turn: dict[str, Any]) -> dict[str, Any]:
  """A turn whose calls have their arguments as objects, where they are some."""
  if "tool_calls" not in turn:
    return turn
  return turn | {"tool_calls": [_with_object(call) for call in turn["tool_calls"]]}


def _with_object(call: dict[str, Any]) -> dict[str, Any]:
  function = call["function"]
  try:
    arguments = json.loads(function.get("arguments") or "{}")
  except (ValueError, RecursionError):
    return call
  return call | {"function": function | {"arguments": arguments}}


def _check_length(served: Served, characters: int, param: str) -> None:
  """Refuses text that cannot fit, before a tokenizer reads it all."""
  assert served.texts is not None
  most = served.room * served.texts.longest
  if characters > most:
    message = f"{param} has {characters} characters: the context of {served.room} tokens holds at most {most}"
    raise ApiError(400, message, param=param, code="context_length_exceeded")


def _check_room(served: Served, tokens: int, param: str) -> None:
  if not tokens:
    raise ApiError(400, f"{param} is empty: expected at least one token", param=param)
  if tokens > served.room:
    message = f"{param} has {tokens} tokens: expected at most {served.room}, the context; shorten it"
    raise ApiError(400, message, param=param, code="context_length_exceeded")
