"""How fast text came, as lines for people."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from lynx_jax.generation import Piece


class Speed:
  """Counts and times a stream's pieces.

  The first step of decoding may compile, so its time is left out of the rate. The prompts' time may hold compiling too
  and is printed as seconds.

  Args:
    prompt_tokens: tokens of all prompts.
  """

  def __init__(self, prompt_tokens: int):
    self._prompt_tokens = prompt_tokens
    self._begin = time.perf_counter()
    # Seconds at which the first tokens were there, then those of the first decode step, then all.
    self._first = self._second = self._end = 0.0
    self._tokens = self._late_tokens = 0

  def watch(self, pieces: "Iterable[Piece]") -> "Iterator[Piece]":
    """Passes pieces on, and counts their tokens."""
    stepped: set[int] = set()
    for piece in pieces:
      now = time.perf_counter() - self._begin
      self._first = self._first or now
      if piece.row in stepped:
        self._second = self._second or now
      stepped.add(piece.row)
      self._late_tokens += len(piece.token_ids) if self._second and now > self._second else 0
      self._tokens += len(piece.token_ids)
      self._end = now
      yield piece

  def lines(self) -> list[str]:
    """Prompts, new tokens and memory, one line each."""
    seconds = self._end - self._second
    rate = f", {self._late_tokens / seconds:.1f} tokens/s" if self._late_tokens and seconds > 0 else ""
    return [
      f"prompt: {self._prompt_tokens} tokens, {self._first:.2f} s to the first new token",
      f"generation: {self._tokens} tokens{rate}",
      f"peak memory: {_peak_memory() / 1e9:.2f} GB",
    ]


def _peak_memory() -> float:
  """Bytes that this process held at most: on the accelerator, or else in main memory."""
  import resource

  import jax

  held = jax.local_devices()[0].memory_stats() or {}
  # Linux counts in kilobytes, macOS in bytes.
  resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
  return held.get("peak_bytes_in_use", resident)
