"""The requests of a load for a server: random prompts of given lengths, or those of a file."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lynx_jax.bench.arrivals import Arrivals
from pallas_kernels.checks import refusal

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
  """One request.

  Attributes:
    at: seconds after the start of the load at which it is sent.
    path: of the endpoint.
    body: what is sent.
  """

  at: float
  path: str
  body: Mapping[str, Any]


def random_bodies(
  lengths: Sequence[tuple[int, int]], ids: tuple[int, int], random: np.random.Generator
) -> list[dict[str, Any]]:
  """Completions of random token ids, of which each draws exactly as many tokens as its length says.

  Args:
    lengths: tokens of each prompt, and new tokens.
    ids: the smallest and the largest id of a prompt.
    random: draws the ids.
  """
  least, most = ids
  return [
    {
      "prompt": random.integers(least, most, size=prompt, endpoint=True).tolist(),
      "max_tokens": output,
      "temperature": 1.0,
      "seed": index,
      "ignore_eos": True,
      "return_token_ids": True,
    }
    for index, (prompt, output) in enumerate(lengths)
  ]


def random_lengths(
  count: int, prompt: tuple[int, int], output: tuple[int, int], random: np.random.Generator
) -> list[tuple[int, int]]:
  """So many pairs of lengths, each equally likely between its ends."""
  prompts, outputs = (random.integers(*ends, size=count, endpoint=True).tolist() for ends in (prompt, output))
  return list(zip(prompts, outputs, strict=True))


def read_lengths(path: Path) -> list[tuple[int, int]]:
  """Pairs of lengths, two numbers a line: tokens of a prompt, and new tokens.

  Raises:
    ValueError: a line is none.
  """
  found = []
  for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
    if not line.strip():
      continue
    try:
      prompt, output = map(int, line.replace(",", " ").split())
    except ValueError:
      raise refusal(f"{path} line {number}", line, "two whole numbers: tokens of the prompt, new tokens") from None
    if prompt < 1 or output < 1:
      raise refusal(f"{path} line {number}", line, "lengths of at least 1")
    found.append((prompt, output))
  if not found:
    raise refusal("--lengths", str(path), "a file of lines such as 128 64")
  return found


def read_prompts(path: Path, most_tokens: int) -> list[dict[str, Any]]:
  """Bodies from a file: one JSON object a line, with `prompt` or `messages`, and any other fields of a request.

  A line of OpenAI's batch form (`body` inside) is read too. `most_tokens` holds where a line says no `max_tokens`.

  Raises:
    ValueError: a line is none.
  """
  found = []
  for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
    if not line.strip():
      continue
    try:
      given = json.loads(line)
      given = given.get("body", given)
      body = dict(given)
    except (ValueError, AttributeError, TypeError):
      raise refusal(f"{path} line {number}", line, "a JSON object") from None
    if ("prompt" in body) == ("messages" in body):
      raise refusal(f"{path} line {number}", line, "an object with prompt or messages")
    if "max_completion_tokens" not in body:
      body.setdefault("max_tokens", most_tokens)
    found.append(body)
  if not found:
    raise refusal("--prompts", str(path), "a file of lines with prompt or messages")
  return found


def timed(
  bodies: Sequence[Mapping[str, Any]], arrivals: Arrivals, random: np.random.Generator, shared: Mapping[str, Any]
) -> list[Asked]:
  """The requests in the order of their arrival, as streams that end with their usage.

  Args:
    bodies: one a request.
    arrivals: when they come.
    random: draws the times.
    shared: fields of all bodies, such as the model.
  """
  streamed = {"stream": True, "stream_options": {"include_usage": True}}
  times = arrivals.times(len(bodies), random)
  return [
    Asked(at=float(at), path=CHAT if "messages" in body else TEXT, body={**body, **streamed, **shared})
    for at, body in zip(times, bodies, strict=True)
  ]
