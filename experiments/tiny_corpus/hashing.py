"""Hashes that are the same in every process, as `hash` of a string is not."""

import hashlib


def stable_hash(text: str) -> int:
  """A hash of 64 bits."""
  return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def one_in(every: int, text: str) -> bool:
  """True for one text in `every`, and always for the same ones."""
  return stable_hash(text) % every == 0
