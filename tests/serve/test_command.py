"""`lynx-jax serve`: what is wrong is said in a line, before any weight is read."""

import socket

import pytest

from tests.command_line import run


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--port", "70000"], "port is 70000"),
    (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
    (["--quality", "best"], "quality is 'best'"),
    (["--policy", "best"], "best"),
    (["--tool-format", "hermez"], "tool_format is 'hermez'"),
    (["--reasoning-format", "thinks"], "reasoning_format is 'thinks'"),
    (["--slots", "0"], "slots is 0"),
    (["--max-body", "0"], "most_body_bytes is 0"),
    (["--api-keys", "/no/such/file"], "/no/such/file"),
    (["/no/such/model", "--port", "0"], "/no/such/model"),
  ],
)
def test_what_is_wrong_is_said(capsys, own_errors, arguments, said):
  code, out, err = run(capsys, "serve", *arguments)
  assert code == 2
  assert out == ""
  assert said in err
  assert len([line for line in err.splitlines() if line.startswith("lynx-jax: error")]) == 1


def test_a_port_that_is_taken_is_said(capsys):
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    code, _, err = run(capsys, "serve", "--port", taken.getsockname()[1])
  assert code == 2
  assert "choose another" in err


def test_keys_come_from_a_file_and_the_environment(tmp_path, monkeypatch, capsys):
  file = tmp_path / "keys"
  file.write_text("first-key\n\nsecond-key\n")
  monkeypatch.setenv("LYNX_JAX_API_KEY", "bad key!")
  code, _, err = run(capsys, "serve", "--api-keys", file, "--port", "0")
  assert code == 2
  assert "at least 8 characters" in err
  # Keys stay out of messages.
  assert "bad key" not in err
