"""Few sizes instead of many, so that few programs are compiled."""


def bucket(size: int, *, least: int = 1, step: int = 512) -> int:
  """The power of two, from `least` up to `step`, or else the multiple of `step`, that holds `size`."""
  if size > step:
    return -(-size // step) * step
  return max(least, 1 << (size - 1).bit_length())
