"""The one error of this package."""


class CheckpointError(ValueError):
  """A checkpoint, or a place to write one, cannot be used; the message names it and says what to do."""
