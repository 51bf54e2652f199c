"""Finds documents that share a whole text or thirteen words in a row with an evaluation set.

Thirteen words is the overlap that GPT-3's authors looked for (arXiv 2005.14165, appendix C).
"""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt64

from experiments.tiny_corpus.hashing import stable_hash

N = 13
SHORTEST = 3


class Match(NamedTuple):
  """Which overlap was found, and the evaluation set it is with."""

  kind: Literal["exact", "ngram"]
  owner: str


def words(text: str) -> list[str]:
  """Words without case or punctuation: what two texts are compared by."""
  return re.findall(r"[^\W_]+", text.casefold())


class Evaluations:
  """The texts of evaluation sets, indexed for `match`.

  `texts` are `(owner, text)` pairs. Of equal texts the first owner counts. Texts of fewer than `SHORTEST`
  words are passed over: they are answers such as "a knife", which any document may hold. Texts and n-grams
  are kept as 64-bit hashes: with 10**7 of them, one false match among 10**7 look-ups has a chance of 10**-5.
  """

  def __init__(self, texts: Iterable[tuple[str, str]]):
    self._whole: dict[int, str] = {}
    seen: set[str] = set()
    owners: dict[str, int] = {}
    grams, labels = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint16)]
    for owner, text in texts:
      if text in seen:
        continue
      seen.add(text)
      of_text = words(text)
      whole = stable_hash(" ".join(of_text))
      if len(of_text) < SHORTEST or whole in self._whole:
        continue
      self._whole[whole] = owner
      if len(of_text) >= N:
        grams.append(_ngram_hashes(of_text))
        labels.append(np.full(len(grams[-1]), owners.setdefault(owner, len(owners)), np.uint16))
    self._grams, first = np.unique(np.concatenate(grams), return_index=True)
    self._labels = np.concatenate(labels)[first]
    self._owners = tuple(owners)

  def match(self, forms: Sequence[str]) -> Match | None:
    """The first overlap of any of `forms`, the texts that stand for one document; or None."""
    of_forms = [words(form) for form in forms]
    for of_form in of_forms:
      owner = self._whole.get(stable_hash(" ".join(of_form)))
      if owner is not None:
        return Match("exact", owner)
    for of_form in of_forms:
      if len(of_form) >= N and len(self._grams):
        hashes = _ngram_hashes(of_form)
        at = np.minimum(np.searchsorted(self._grams, hashes), len(self._grams) - 1)
        hits = np.flatnonzero(self._grams[at] == hashes)
        if len(hits):
          return Match("ngram", self._owners[self._labels[at[hits[0]]]])
    return None


_word_hash = functools.cache(stable_hash)
# Powers of an odd number are invertible modulo 2**64, so no place in an n-gram loses bits of its word.
_POWERS = np.array([pow(0x9E3779B97F4A7C15, i, 2**64) for i in range(N)], np.uint64)


def _ngram_hashes(of_text: Sequence[str]) -> UInt64[np.ndarray, " n"]:
  """A hash of every N words in a row; `of_text` has at least N."""
  hashes = np.fromiter(map(_word_hash, of_text), np.uint64, len(of_text))
  return np.lib.stride_tricks.sliding_window_view(hashes, N) @ _POWERS
