"""Directories appear whole or not at all, and what killed runs left is cleared away."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints_convert.__main__ import main
from checkpoints_convert.staging import remove_leftovers, staged
from lynx_jax.models.checkpoints import convert
from tests.families.cases import MIXTRAL, checkpoint

# Sends itself a signal while it writes the third group of parameters.
_PROGRAM = """
import os, signal, sys
from checkpoints_convert import checkpoint, parameters
from checkpoints_convert.__main__ import main

# A shell's background jobs start with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
parameters.GROUP_BYTES = 10_000
read = checkpoint.HubCheckpoint.parameters
calls = 0

def interrupted(self, *arguments, **options):
  global calls
  calls += 1
  if calls == 3:
    os.kill(os.getpid(), {signal})
  yield from read(self, *arguments, **options)

checkpoint.HubCheckpoint.parameters = interrupted
sys.exit(main({arguments!r}))
"""


def run_until_signal(destination: Path, to: str, number: int) -> subprocess.CompletedProcess:
  arguments = [str(checkpoint(MIXTRAL[0])), str(destination), "--to", to]
  program = _PROGRAM.format(signal=int(number), arguments=arguments)
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)


def own_lines(text: str) -> list[str]:
  """Without what TensorFlow's logging says of this machine when Orbax is imported."""
  return [line for line in text.splitlines() if "absl::InitializeLog" not in line and "cudart_stub" not in line]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("to", ["orbax", "hf"])
def test_an_interrupted_conversion_says_so_in_a_line_and_leaves_nothing(
  tmp_path: Path, to: str, number: int, code: int
):
  done = run_until_signal(tmp_path / "out", to, number)
  assert own_lines(done.stderr) == [f"error: interrupted: nothing was written to {tmp_path / 'out'}"]
  assert (done.returncode, done.stdout) == (code, "")
  assert list(tmp_path.iterdir()) == []


def test_what_a_killed_conversion_left_is_removed_by_the_next(tmp_path: Path):
  done = run_until_signal(tmp_path / "out", "orbax", signal.SIGKILL)
  assert done.returncode == -signal.SIGKILL
  (left,) = tmp_path.iterdir()
  assert left.name.startswith(".out.")
  assert main([str(checkpoint(MIXTRAL[0])), str(tmp_path / "out"), "--to", "hf"]) == 0
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_directory_of_a_run_that_lives_is_left_alone(tmp_path: Path):
  with staged(tmp_path / "out", force=False) as first:
    (first / "mine").touch()
    remove_leftovers(tmp_path / "out")
    assert (first / "mine").exists()
  assert (tmp_path / "out" / "mine").exists()


def test_a_directory_of_another_name_is_no_leftover(tmp_path: Path):
  for name in (".outer.1234.partial", ".out.partial", "out.1234.partial"):
    (tmp_path / name).mkdir()
  remove_leftovers(tmp_path / "out")
  assert len(list(tmp_path.iterdir())) == 3


def test_a_model_that_a_killed_run_had_moved_away_is_put_back(tmp_path: Path):
  convert(checkpoint(MIXTRAL[0]), tmp_path / "out", to="hf")
  (tmp_path / "out").rename(tmp_path / ".out.12345678.replaced")
  (tmp_path / ".out.12345678.partial").mkdir()
  remove_leftovers(tmp_path / "out")
  assert [path.name for path in tmp_path.iterdir()] == ["out"]
  assert (tmp_path / "out" / "config.json").is_file()


def test_a_replaced_model_that_nobody_removed_is_removed(tmp_path: Path):
  for name in ("out", ".out.12345678.replaced"):
    (tmp_path / name).mkdir()
  remove_leftovers(tmp_path / "out")
  assert [path.name for path in tmp_path.iterdir()] == ["out"]
