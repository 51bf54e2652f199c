"""Conversations as prompts, by the model's own chat template."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from lynx_jax.text.tokenizer import Tokenizer

Message: TypeAlias = Mapping[str, Any]
"""`role` (system, user, assistant, ...) and `content`, and whatever else the template knows, such as `tool_calls`."""
Chats: TypeAlias = str | Sequence[str] | Sequence[Message] | Sequence[Sequence[Message]]
"""A user's message or several, each its own conversation; or the messages of one conversation or of several."""


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
  if tokenizer is None:
    raise ValueError("chat needs a tokenizer, and this checkpoint has none: give lists of token ids without chat")
  # The template has written the special tokens already.
  return [
    tokenizer.encode(tokenizer.apply_chat(messages, **variables), add_special_tokens=False)
    for messages in conversations(chats)
  ]


def conversations(chats: Chats) -> list[list[Message]]:
  """One list of messages a conversation; TypeError, naming the prompt, for anything else."""
  several: list[Any] = [chats] if isinstance(chats, str) else list(chats)
  if several and all(isinstance(chat, Mapping) for chat in several):
    several = [several]
  return [_messages(index, chat) for index, chat in enumerate(several)]


def _messages(index: int, chat: object) -> list[Message]:
  if isinstance(chat, str):
    return [{"role": "user", "content": chat}]
  if not isinstance(chat, Sequence):
    raise TypeError(f"prompt {index} is a {type(chat).__name__}: with chat, expected a string or a list of messages")
  for message in chat:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
      raise TypeError(
        f"prompt {index} holds {message!r}: with chat, expected messages such as {{'role': 'user', 'content': 'Hi'}}"
      )
  return list(chat)
