"""Which items are trained on, which validate, and which are dropped and why."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from rich.progress import Progress

from experiments.tiny_corpus import sources
from experiments.tiny_corpus.decontaminate import Evaluations
from experiments.tiny_corpus.documents import forms
from experiments.tiny_corpus.hashing import one_in
from experiments.tiny_corpus.sources import Item
from experiments.tiny_corpus.wheel import Wheel


@dataclasses.dataclass(slots=True)
class Tally:
  """What became of the items of one source; `read` is the sum of the others."""

  read: int = 0
  train: int = 0
  valid: int = 0
  dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

  def as_json(self) -> dict[str, Any]:
    """Plain values, the most frequent reasons first."""
    return {**dataclasses.asdict(self), "dropped": dict(self.dropped.most_common())}


@dataclasses.dataclass(frozen=True, slots=True)
class Curated:
  """Items by use, in the order of their sources."""

  train: list[Item]
  valid: list[Item]
  tallies: dict[str, Tally]


def curate(wheel: Wheel, evaluations: Evaluations, progress: Progress, *, valid_every: int) -> Curated:
  """Reads every train split, and drops what repeats, what evaluation sets hold, and what validation holds."""
  tallies = {source: Tally() for source in sources.SOURCES}
  clean: list[Item] = []
  for source, tally in tallies.items():
    items = progress.track(sources.train_items(wheel, source), description=source)
    clean += _undropped(items, evaluations, tally)
  valid = [item for item in clean if one_in(valid_every, f"valid {item.context}{item.question}")]
  # Question sets ask in pairs and about shared passages; those of a held-out item would give it away.
  held_out = Evaluations(("valid", form) for item in valid for form in forms(item))
  near = [held_out.match(forms(item)) is not None for item in clean]
  train = [item for item, is_near in zip(clean, near, strict=True) if not is_near]
  trained, validated = (collections.Counter(item.source for item in items) for items in (train, valid))
  for source, tally in tallies.items():
    tally.train, tally.valid = trained[source], validated[source]
    tally.dropped["near valid"] = tally.read - tally.train - tally.valid - tally.dropped.total()
  return Curated(train, valid, tallies)


def _undropped(items: Iterable[Item], evaluations: Evaluations, tally: Tally) -> Iterator[Item]:
  """The items that neither repeat an earlier one nor overlap an evaluation set."""
  seen: set[str] = set()
  for item in items:
    tally.read += 1
    form = " ".join(forms(item))
    if form in seen:
      tally.dropped["duplicate"] += 1
    elif match := evaluations.match(forms(item)):
      tally.dropped[f"{match.kind} {match.owner}"] += 1
    else:
      yield item
    seen.add(form)
