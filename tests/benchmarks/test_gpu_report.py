"""The report of `make gpu`, at small sizes on whatever runs the tests."""

import json

import jax
import pytest

from benchmarks.kernels.gpu_report import main, profiled
from benchmarks.kernels.gpu_report_text import markdown
from benchmarks.kernels.memory_bandwidth import MemoryBandwidth
from benchmarks.kernels.step_profile import KernelUse, StepProfile
from lynx_jax.routing import Lynx, TopK

JUNIT = """<?xml version="1.0"?><testsuites><testsuite name="pytest" errors="0" failures="1" skipped="1" tests="3">
<testcase classname="tests.a" name="passes" />
<testcase classname="tests.a" name="fails"><failure message="no" /></testcase>
<testcase classname="tests.a" name="waits"><skipped /></testcase></testsuite></testsuites>"""


@pytest.mark.slow
# Programs are compiled ahead: see test_compile_ahead.py.
@pytest.mark.usefixtures("own_errors")
def test_a_report_has_tests_ops_and_decode_steps(tmp_path):
  (tmp_path / "tests.xml").write_text(JUNIT)
  assert main(["--tiny", "--out", str(tmp_path / "out"), "--tests", str(tmp_path / "tests.xml")]) == 0
  facts = json.loads((tmp_path / "out" / "report.json").read_text())
  assert facts["about"]["tests"] == {"tests": 3, "failures": 1, "errors": 0, "skipped": 1, "failed": ["tests.a.fails"]}
  ops = {
    "row_matmuls", "row_matmul", "append_heads", "decode_attention", "lynx_route", "expert_ffn",
  }  # fmt: skip
  assert {op["op"] for op in facts["ops"]} == ops
  assert all(op["error"] < 0.03 and op["us"] > 0 and op["roofline_us"] > 0 for op in facts["ops"])
  assert [row["batch"] for row in facts["decode"]] == [1, 1, 4, 4]
  assert facts["about"]["bandwidth"] == max(facts["memory"].values())
  text = (tmp_path / "out" / "report.md").read_text()
  assert "- failed: tests.a.fails" in text
  assert text.count("| lynx:alpha=3,beta=2 |") == 2
  assert text.index("## Decode steps") < text.index("## Ops")


def test_parts_that_were_not_measured_are_left_out_and_kernels_have_lines():
  about = {
    "device": "NVIDIA H100", "date": "2026-11-26", "lynx_jax": "0", "jax": "0", "flax": "0", "python": "3",
    "tests": None, "model": "tiny", "profiled": True, "left_out": ["batch 64: RESOURCE_EXHAUSTED"],
  }  # fmt: skip
  kernels = [KernelUse(name=f"kernel_{at}", us=100.0 - at, launches=2.0) for at in range(20)]
  profile = StepProfile(policy="topk", batch=16, step_ms=4.5, kernels=kernels)
  memory = MemoryBandwidth(by_pass={"sum": 3e12, "read and write": 2e12})
  text = "\n".join(markdown(about, memory, [], [profile], [], 0))
  assert "Memory is read at 3000 GB/s" in text
  assert "- left out: batch 64: RESOURCE_EXHAUSTED" in text
  assert "| 100.0 | 2.0 | 50.00 | kernel_0 |" in text
  assert "| 330.0 | 8.0 | 41.25 | 4 others |" in text
  assert "1.81 ms" in text
  assert "## Ops" not in text


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="this machine has what the error misses")
def test_without_a_gpu_nothing_is_written(tmp_path, capsys):
  assert main(["--out", str(tmp_path / "out")]) == 2
  assert "not on an NVIDIA GPU" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_every_policy_is_profiled_at_one_size_and_the_first_where_a_step_is_small_kernels():
  first, second = policies = (TopK(), Lynx(alpha=3, beta=2))
  assert profiled((4, 16, 1), policies) == [(16, first), (16, second), (1, first)]
  assert profiled((8, 32), policies) == [(8, first), (8, second)]
