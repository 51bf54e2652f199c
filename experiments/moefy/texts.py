"""Text to calibrate on and text to judge by, from a small package: whole documents on one side or the other.

`exllamav2` 0.3.2 (1.5 MB, MIT) ships samples of Wikipedia (CC BY-SA), C4 (ODC-BY) and TinyStories (CDLA-Sharing 1.0).
"""

import dataclasses
import re
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer

from experiments.tiny_corpus.decontaminate import Evaluations

DOMAINS = ("wikipedia", "web", "stories")
_FILES = {"wikipedia": "wiki", "web": "c4", "stories": "tiny"}
_SHORTEST = 400  # characters: shorter articles of this sample are lists and redirects
_JUDGED_EVERY = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Split:
  """Documents by domain.

  Attributes:
    calibration: shares no thirteen words in a row with `judged`.
    judged: every fourth document.
    dropped: documents left out of `calibration` for such an overlap.
  """

  calibration: dict[str, list[str]]
  judged: dict[str, list[str]]
  dropped: int


def read_documents(wheel: Path) -> dict[str, list[str]]:
  """The documents of each of `DOMAINS`, in the wheel's order."""
  with zipfile.ZipFile(wheel) as packed:
    return {
      domain: _documents(domain, packed.read(f"exllamav2/conversion/standard_cal_data/{file}.utf8").decode())
      for domain, file in _FILES.items()
    }


def _documents(domain: str, text: str) -> list[str]:
  if domain == "wikipedia":
    found = re.findall(r"<doc [^>]*>\n(.*?)\n</doc>", text, flags=re.DOTALL)
  elif domain == "web":
    found = text.split("\n")
  else:
    found = text.split("<|endoftext|>")
  return [document.strip() for document in found if len(document.strip()) >= _SHORTEST]


def split(documents: dict[str, list[str]]) -> Split:
  """Every fourth document of a domain judges; of the others, those that overlap with one that judges are dropped."""
  judged = {domain: found[::_JUDGED_EVERY] for domain, found in documents.items()}
  known = Evaluations((domain, text) for domain, found in judged.items() for text in found)
  calibration: dict[str, list[str]] = {}
  for domain, found in documents.items():
    apart = [text for index, text in enumerate(found) if index % _JUDGED_EVERY]
    calibration[domain] = [text for text in apart if known.match([text]) is None]
  kept = sum(map(len, calibration.values())) + sum(map(len, judged.values()))
  return Split(calibration=calibration, judged=judged, dropped=sum(map(len, documents.values())) - kept)


def windows(
  tokenizer: Tokenizer, documents: dict[str, list[str]], *, count: int, length: int, stop: int
) -> Int32[np.ndarray, "N L"]:
  """`count` windows of `length` tokens, an equal share of each domain's, spread over its documents.

  Documents follow one another with the end-of-text token between them.

  Raises:
    ValueError: a domain has too little text.
  """
  taken = []
  for index, (domain, found) in enumerate(documents.items()):
    stream = [token for text in found for token in (stop, *tokenizer.encode(text, add_special_tokens=False).ids)]
    wanted = count * (index + 1) // len(documents) - count * index // len(documents)
    cut = np.array(stream[: len(stream) // length * length], np.int32).reshape(-1, length)
    if len(cut) < wanted:
      raise ValueError(f"{domain} has {len(cut)} windows of {length} tokens, {wanted} are wanted: ask for fewer")
    taken.append(cut[np.linspace(0, len(cut) - 1, wanted).astype(int)])
  return np.concatenate(taken)
