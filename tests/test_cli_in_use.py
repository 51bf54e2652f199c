"""The command line in use: what it says while it works, and what goes wrong around it."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import lynx_jax
from checkpoints_convert import files
from lynx_jax import platforms
from lynx_jax.engine.paged.executables import forget_executables
from lynx_jax.info import describe
from tests.command_line import run


def test_generate_says_what_it_compiles_how_fast_it_was_and_which_rows_ended_at_their_limit(capsys):
  forget_executables()
  code, out, err = run(capsys, "generate", "The man is", "A", "--max-new-tokens", 5)
  lines = err.splitlines()
  assert code == 0
  assert lines[0] == "compiling mixed[32] ..."
  assert lines[1] == "compiling decode[2] ..."
  assert lines[2] == "the text of prompts 0, 1 ended at its limit (--max-new-tokens, or the model's context)"
  params = lynx_jax.load()
  assert params.tokenizer is not None
  assert lines[3].startswith(
    f"prompt: {sum(len(params.tokenizer.encode(text)) for text in ('The man is', 'A'))} tokens, "
  )
  assert lines[4].startswith("generation: 10 tokens, ")
  assert lines[5].startswith("peak memory: ")
  again = run(capsys, "generate", "The man is", "A", "--max-new-tokens", 5)
  assert again[1] == out
  assert again[2].splitlines()[0] == lines[2]


def test_chat_goes_on_when_the_conversation_outgrows_the_context(capsys, monkeypatch):
  params = lynx_jax.load()
  assert params.tokenizer is not None
  message = "What do plants need to grow? " * 20
  size = len(params.tokenizer.encode(message))
  assert params.spec.context / 4 < size < params.spec.context / 2
  lines = iter([message, message, message, message * 10, message, "/exit"])
  monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
  code, out, err = run(capsys, "chat", "--max-new-tokens", 2, "--quiet")
  assert code == 0
  assert len(out.splitlines()) >= 4
  assert "The conversation outgrew the model's context of 512 tokens: its first turn is forgotten." in err.replace(
    "1 ", ""
  )
  assert "The message does not fit the model's context of 512 tokens: shorten it." in err


def test_out_of_memory_is_one_line_with_sizes_and_what_to_lower(capsys, monkeypatch):
  def exhausted(*arguments, **options):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")

  monkeypatch.setattr("lynx_jax.engine.core.Executor.dispatch", exhausted)
  code, _, err = run(capsys, "generate", "The man is", "--max-new-tokens", 100, "--quiet")
  params = lynx_jax.load()
  assert params.tokenizer is not None
  cache = 128 * 3072 / 1e9
  assert code == 2
  assert len(err.splitlines()) == 1
  assert f"error: out of memory: 1 rows x 128 positions take a cache of {cache:.2f} GB beside 0.04 GB of weights" in err
  assert "lower the rows" in err
  with pytest.raises(MemoryError, match="out of memory"):
    lynx_jax.generate(params, "The man is")
  monkeypatch.setattr("lynx_jax.bench.fed_decode.compiled_prefill", exhausted)
  code, _, err = run(capsys, "bench", "decode", "--batch", 3, "--steps", 2, "--repeats", 1)
  assert code == 2
  assert "out of memory: 3 rows x 64 positions" in err


def test_other_errors_of_the_device_are_not_taken_for_it(monkeypatch):
  def broken(*arguments, **options):
    raise jax.errors.JaxRuntimeError("INTERNAL: no such thing")

  monkeypatch.setattr("lynx_jax.engine.core.Executor.dispatch", broken)
  with pytest.raises(jax.errors.JaxRuntimeError, match="no such thing"):
    lynx_jax.generate(lynx_jax.load(), "The man is")


def test_a_full_disk_is_one_line_that_names_the_file(capsys, monkeypatch, tmp_path):
  def full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr("pathlib.Path.write_text", full)
  with pytest.raises(OSError, match=rf"cannot write {tmp_path}/a.json: No space left on device; free some space"):
    files.write_json(tmp_path / "a.json", [])
  assert list(tmp_path.iterdir()) == []


def test_info_in_a_pipe_has_one_fact_a_line_and_json_has_all(capsys):
  _, out, _ = run(capsys, "info")
  facts = dict(describe(None))
  assert [line.split("  ")[0] for line in out.splitlines()] == list(facts)
  code, out, _ = run(capsys, "info", "--json")
  assert (code, json.loads(out)) == (0, facts)


def test_estimate_says_whether_the_model_fits(capsys):
  _, out, _ = run(capsys, "estimate", "--config", "DeepSeek-V3", "--gpu", "h100")
  assert "Does NOT fit: 693.0 GB of weights" in out
  assert "in 1 x 80 GB; give --gpus 10" in out
  _, out, _ = run(capsys, "estimate", "--config", "DeepSeek-V3", "--gpu", "h100", "--gpus", 10)
  assert "Fits: 693.0 GB of weights" in out


def child(program, **environment):
  """What a Python program printed in a process of its own."""
  return subprocess.run(
    [sys.executable, "-c", program],
    env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    capture_output=True,
    text=True,
  )


def test_help_and_version_import_nothing_heavy():
  program = (
    "import sys\nfrom lynx_jax.cli import main\n"
    "for arguments in (['--help'], ['--version'], ['generate', '--help'], ['eval', '--help'], ['nonsense']):\n"
    "  try: main(arguments)\n"
    "  except SystemExit: pass\n"
    "print([name for name in ('jax', 'numpy', 'flax', 'orbax', 'tokenizers', 'rich') if name in sys.modules])"
  )
  done = child(program)
  assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.slow
def test_programs_are_kept_between_runs_unless_asked_not_to(tmp_path):
  program = (
    "import sys, jax\nfrom lynx_jax.cli import main\nhits = []\n"
    "def heard(name, **_): hits.append(name) if name.endswith('/cache_hits') else None\n"
    "jax.monitoring.register_event_listener(heard)\n"
    "from lynx_jax.engine.paged.program_set import ProgramSet\nbuild, built = ProgramSet._build, []\n"
    "ProgramSet._build = lambda *arguments: built.append(arguments) or build(*arguments)\n"
    "try: main(['generate', 'A', '--max-new-tokens', '3', '--quiet', *sys.argv[1:]])\n"
    "finally: print(len(hits), len(built), file=sys.stderr)"
  )
  cached = {"XDG_CACHE_HOME": str(tmp_path), "LYNX_JAX_COMPILATION_CACHE": ""}
  first = child(program, **cached)
  programs = list((tmp_path / "lynx_jax" / "programs" / "steps").iterdir())
  second = child(program, **cached)
  assert first.returncode == second.returncode == 0, first.stderr + second.stderr
  assert first.stdout == second.stdout
  # A step that reads the prompt and one that decodes; JAX keeps the small programs around them.
  assert len(programs) == 2
  (hits, built), (hits_again, built_again) = (
    [int(word) for word in run.stderr.split()[-2:]] for run in (first, second)
  )
  assert (hits, built) == (0, 2)
  assert hits_again > 0
  assert built_again == 0


def test_where_programs_are_kept(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  monkeypatch.delenv("LYNX_JAX_COMPILATION_CACHE")
  assert platforms.compilation_cache() == tmp_path / "lynx_jax" / "programs"
  monkeypatch.setenv("LYNX_JAX_COMPILATION_CACHE", "off")
  assert platforms.compilation_cache() is None
  monkeypatch.setenv("LYNX_JAX_COMPILATION_CACHE", str(tmp_path / "mine"))
  assert platforms.compilation_cache() == tmp_path / "mine"
  monkeypatch.delenv("LYNX_JAX_COMPILATION_CACHE")
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
  assert platforms.compilation_cache() is None


@pytest.mark.parametrize(
  ("redirections", "code", "message"),
  [
    (">&-", 2, "lynx-jax: error: standard output is closed: redirect it to a file, or to /dev/null"),
    ("<&-", 2, "lynx-jax: error: standard input holds no prompt: write one a line"),
    ("</dev/null >&- 2>&-", 2, ""),
  ],
)
def test_closed_streams_are_no_traceback(redirections, code, message):
  command = f"{sys.executable} -m lynx_jax.cli generate {redirections}"
  done = subprocess.run(command, shell=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
  assert (done.returncode, done.stdout) == (code, "")
  assert [line for line in done.stderr.splitlines() if line.startswith(("lynx", "Trace"))] == (
    [message] if message else []
  )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_behind_standard_output_is_one_line():
  with Path("/dev/full").open("w") as full:
    done = subprocess.run(
      [sys.executable, "-m", "lynx_jax.cli", "estimate", "--config", "OLMoE-1B-7B"], stdout=full,
      stderr=subprocess.PIPE, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}, check=False,
    )  # fmt: skip
  said = [line for line in done.stderr.splitlines() if "error" in line or "Trace" in line]
  assert said == ["lynx-jax: error: standard output cannot be written: no space left on its disk"]
  assert done.returncode == 2
