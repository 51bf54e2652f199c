"""How long requests took, by the engine's clock."""

import dataclasses
from collections.abc import Callable

from lynx_jax.engine.host.request import Piece


class RequestTimes:
  """Writes times into the last pieces of requests."""

  def __init__(self, clock: Callable[[], float]):
    """`clock` gives seconds."""
    self._clock = clock
    self._begun: dict[str, float] = {}
    self._first: dict[str, float] = {}

  def begin(self, request_id: str) -> None:
    """Notes that a request has come."""
    self._begun[request_id] = self._clock()

  def stamp(self, pieces: list[Piece]) -> list[Piece]:
    """The pieces, of which the last ones of requests say how long these took."""
    if not pieces:
      return pieces
    now, begun, first = self._clock(), self._begun, self._first
    for place, piece in enumerate(pieces):
      name = piece.request_id
      if piece.token_ids and name not in first:
        first[name] = now
      if piece.finished is not None:
        start, drawn = begun.pop(name), first.pop(name, None)
        finished = dataclasses.replace(
          piece.finished, seconds=now - start, first_token_seconds=None if drawn is None else drawn - start
        )
        pieces[place] = piece._replace(finished=finished)
    return pieces
