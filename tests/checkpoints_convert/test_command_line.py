"""`python -m checkpoints_convert`: what it prints, where, and its exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints_convert.__main__ import main
from lynx_jax.models.checkpoints import convert
from tests.families.cases import MIXTRAL, checkpoint


def test_a_conversion_prints_one_line_and_no_progress_off_a_terminal(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
  assert main([str(checkpoint(MIXTRAL[0])), str(tmp_path / "out"), "--dtype", "bfloat16", "--to", "hf"]) == 0
  printed = capsys.readouterr()
  assert printed.out == f"wrote {tmp_path / 'out'}\n"
  assert printed.err == ""


@pytest.mark.parametrize(
  ("source", "options", "message"),
  [
    ("absent/../nowhere/at/all", (), "does not exist"),
    ("mistralai/Mixtral-8x7B-v0.1", (), "hf download mistralai/Mixtral-8x7B-v0.1"),
    (__file__, (), "is a file"),
    (str(Path(__file__).parent), (), "has no config.json"),
    (None, ("--dtype", "int4"), "dtype is 'int4'"),
  ],
)
def test_an_error_is_one_line_and_exit_code_2(
  tmp_path: Path,
  capsys: pytest.CaptureFixture[str],
  source: str | None,
  options: tuple[str, ...],
  message: str,
):
  given = str(checkpoint(MIXTRAL[0])) if source is None else source
  assert main([given, str(tmp_path / "out"), *options]) == 2
  printed = capsys.readouterr()
  assert printed.out == ""
  assert printed.err.startswith("error: ")
  assert printed.err.count("\n") == 1
  assert message in printed.err
  assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_a_usage_error(capsys: pytest.CaptureFixture[str]):
  with pytest.raises(SystemExit) as raised:
    main(["a", "b", "--to", "gguf"])
  assert raised.value.code == 2
  assert "gguf" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("damaged", "reason"),
  [(slice(None), "its list of parameters is damaged or missing"), (slice(1), "OUT_OF_RANGE")],
  ids=["every-file", "largest-file"],
)
def test_damaged_converted_weights_are_one_error_without_a_traceback(tmp_path: Path, damaged: slice, reason: str):
  convert(checkpoint(MIXTRAL[0]), tmp_path / "out")
  files = sorted((tmp_path / "out" / "weights").rglob("d/*"), key=lambda path: path.stat().st_size, reverse=True)
  for path in files[damaged]:
    os.truncate(path, 1)
  command = [sys.executable, "-m", "checkpoints_convert", str(tmp_path / "out"), str(tmp_path / "again")]
  done = subprocess.run(
    command, capture_output=True, text=True, check=False, env={**os.environ, "JAX_PLATFORMS": "cpu"}
  )
  assert done.returncode == 2
  errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert len(errors) == 1, done.stderr
  assert "weights cannot be read" in errors[0]
  assert reason in errors[0]
  assert "Traceback" not in done.stderr
  assert "never retrieved" not in done.stderr
  assert not (tmp_path / "again").exists()


def test_it_runs_as_a_module_without_torch_or_transformers(tmp_path: Path):
  arguments = ["checkpoints_convert", str(checkpoint(MIXTRAL[0], "bfloat16")), str(tmp_path / "out")]
  program = (
    "import runpy, sys\n"
    "sys.modules['torch'] = sys.modules['transformers'] = None  # importing either fails\n"
    f"sys.argv = {arguments!r}\n"
    "runpy.run_module('checkpoints_convert', run_name='__main__', alter_sys=True)\n"
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert done.stdout == f"wrote {tmp_path / 'out'}\n"
  assert (tmp_path / "out" / "conversion.json").is_file()
