"""Runs the command line in this process."""

import pytest

from lynx_jax.cli import main


def run(capsys, *arguments):
  """Exit code, standard output, standard error."""
  with pytest.raises(SystemExit) as ended:
    main([str(argument) for argument in arguments])
  captured = capsys.readouterr()
  return ended.value.code, captured.out, captured.err
