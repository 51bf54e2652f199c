"""Compiled programs: kept between runs, and announced, as building one takes seconds."""

import logging
import sys

from lynx_jax.platforms import compilation_cache


def keep_programs() -> None:
  """Turns on JAX's compilation cache, in a directory of the user's cache.

  Does nothing where the environment turns it off or sets JAX's own, or where the directory cannot be made.
  """
  directory = compilation_cache()
  if directory is None:
    return
  try:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
  except OSError:
    return
  import jax

  jax.config.update("jax_compilation_cache_dir", str(directory))
  # Most programs compile within a second, JAX's own threshold, and there are many of them.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def announce_programs(announced: bool) -> None:
  """Writes a line to standard error whenever a new program is built, or stops doing so; warnings are always written."""
  logger = logging.getLogger("lynx_jax")
  logger.handlers = [_StandardError(logging.INFO if announced else logging.WARNING)]
  logger.setLevel(logging.INFO)
  logger.propagate = False


class _StandardError(logging.Handler):
  """Prints messages as they are, to whatever standard error is then."""

  def emit(self, record: logging.LogRecord) -> None:
    """Prints one message."""
    print(record.getMessage(), file=sys.stderr)
