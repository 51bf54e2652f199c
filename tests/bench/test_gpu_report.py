"""The report of `make gpu`, at small sizes on whatever runs the tests."""

import json

import jax
import pytest

from lynx_jax.bench.gpu_report import main

JUNIT = """<?xml version="1.0"?><testsuites><testsuite name="pytest" errors="0" failures="1" skipped="1" tests="3">
<testcase classname="tests.a" name="passes" />
<testcase classname="tests.a" name="fails"><failure message="no" /></testcase>
<testcase classname="tests.a" name="waits"><skipped /></testcase></testsuite></testsuites>"""


def test_a_report_has_tests_ops_and_decode_steps(tmp_path):
  (tmp_path / "tests.xml").write_text(JUNIT)
  assert main(["--tiny", "--out", str(tmp_path / "out"), "--tests", str(tmp_path / "tests.xml")]) == 0
  facts = json.loads((tmp_path / "out" / "report.json").read_text())
  assert facts["about"]["tests"] == {"tests": 3, "failures": 1, "errors": 0, "skipped": 1, "failed": ["tests.a.fails"]}
  ops = {"row_matmuls", "append_heads", "decode_attention", "select_experts", "expert_ffn", "grouped_matmul"}
  assert {op["op"] for op in facts["ops"]} == ops
  assert all(op["error"] < 0.03 and op["us"] >= 0 and op["roofline_us"] > 0 for op in facts["ops"])
  assert [row["batch"] for row in facts["decode"]] == [1, 1, 4, 4]
  text = (tmp_path / "out" / "report.md").read_text()
  assert "- failed: tests.a.fails" in text
  assert text.count("| lynx:alpha=3,beta=2 |") == 2


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="this machine has what the error misses")
def test_without_a_gpu_nothing_is_written(tmp_path, capsys):
  assert main(["--out", str(tmp_path / "out")]) == 2
  assert "not on an NVIDIA GPU" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()
