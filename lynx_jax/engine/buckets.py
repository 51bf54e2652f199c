"""Rounds sizes up to a few values, so that few programs are compiled."""


def bucket(size: int, *, least: int = 1, step: int = 512) -> int:
  """Rounds `size` up: to a power of two of at least `least`, or above `step` to a multiple of `step`."""
  if size > step:
    return -(-size // step) * step
  return max(least, 1 << (size - 1).bit_length())
