"""Conversations as prompts, by the model's own chat template."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, TypeAlias

from lynx_jax.text.tokenizer import Tokenizer
from pallas_kernels.checks import shown

Message: TypeAlias = Mapping[str, Any]
"""`role` (such as system, user or assistant), `content`, and what else the template knows, such as `tool_calls`."""
Chats: TypeAlias = str | Sequence[str] | Sequence[Message] | Sequence[Sequence[Message]]
"""A user's message, or several that are a conversation each; the messages of one conversation, or of several."""


def chat_prompts(tokenizer: Tokenizer | None, chats: Chats, variables: Mapping[str, Any]) -> list[list[int]]:
  """Token ids of each conversation, ready for the assistant's next turn.

  Args:
    tokenizer: the model's.
    chats: what to answer.
    variables: what the template knows besides, such as `enable_thinking`.

  Raises:
    ValueError: there is no tokenizer, it has no template, or the template refuses the messages.
    TypeError: something else was given than messages.
  """
  several = listed_chats(tokenizer, chats)
  assert tokenizer is not None
  return [chat_prompt(tokenizer, index, chat, variables) for index, chat in enumerate(several)]


def listed_chats(tokenizer: Tokenizer | None, chats: Chats) -> list[Any]:
  """Each conversation of `chats`, not looked at yet.

  Raises:
    ValueError: there is no tokenizer.
    TypeError: something else was given than messages.
  """
  if tokenizer is None:
    raise ValueError("chat needs a tokenizer, and this checkpoint has none: give lists of token ids without chat")
  return _listed(chats)


def chat_prompt(tokenizer: Tokenizer, index: int, chat: object, variables: Mapping[str, Any]) -> list[int]:
  """Token ids of one conversation, ready for the assistant's next turn; errors as `chat_prompts`.

  Args:
    tokenizer: the model's.
    index: of the conversation, for messages of errors.
    chat: the user's message, or a list of messages.
    variables: what the template knows besides.
  """
  text = tokenizer.apply_chat(_messages(index, chat), **variables)
  # The template has written the special tokens already.
  return tokenizer.encode(text, add_special_tokens=False)


def conversations(chats: Chats) -> list[list[Message]]:
  """One list of messages a conversation; TypeError, naming the prompt, for anything else."""
  return [_messages(index, chat) for index, chat in enumerate(_listed(chats))]


def _listed(chats: Chats) -> list[Any]:
  """One entry a conversation; TypeError for anything that holds none."""
  if isinstance(chats, Mapping):
    raise TypeError(f"prompts is {shown(chats)}: with chat, expected messages; put it in a list, as one message")
  if isinstance(chats, bytes | bytearray | Set) or not isinstance(chats, Iterable):
    raise TypeError(f"prompts is {shown(chats)}: with chat, expected strings or lists of messages")
  several: list[Any] = [chats] if isinstance(chats, str) else list(chats)
  return [several] if several and all(isinstance(chat, Mapping) for chat in several) else several


def _messages(index: int, chat: object) -> list[Message]:
  if isinstance(chat, str):
    return [{"role": "user", "content": chat}]
  if not isinstance(chat, Sequence) or isinstance(chat, bytes | bytearray):
    raise TypeError(f"prompt {index} is {shown(chat)}: with chat, expected a string or a list of messages")
  for message in chat:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
      raise TypeError(
        f"prompt {index} holds {shown(message)}: with chat, expected messages such as "
        "{'role': 'user', 'content': 'Hi'}"
      )
  return list(chat)
