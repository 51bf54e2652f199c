"""Measures this machine's GPU and writes one Markdown report and its JSON: what `make gpu` runs.

python -m benchmarks.kernels.gpu_report --out .work/gpu [--tests junit.xml]
"""

import argparse
import dataclasses
import datetime
import platform
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax
import jax

import lynx_jax
from benchmarks.kernels.compile_ahead import compile_ahead
from benchmarks.kernels.decode_program import COMPILED
from benchmarks.kernels.gpu_report_text import markdown
from benchmarks.kernels.memory_bandwidth import memory_bandwidth
from benchmarks.kernels.op_times import OpTime, op_times
from benchmarks.kernels.step_profile import StepProfile, step_profile
from checkpoints_convert.files import write_json, write_text
from lynx_jax.bench.decode import Row, bench_decode
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.released import RELEASED
from lynx_jax.models.sizes import counts
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.routing import RoutingPolicy, format_policy, parse_policy
from lynx_jax.testing.random_params import random_params
from pallas_kernels.gates.shapes import MODEL_SHAPES, ModelShape

POLICIES = ("topk", "lynx:alpha=3,beta=2", "oea:k0=3", "prune:k0=3", "mass_floor:tau=0.7")
BATCHES = (1, 4, 8, 16, 32, 64)
# For a look at the report where there is no GPU: sizes that a CPU runs in a second.
TINY_SHAPE = ModelShape(
  name="tiny", width=64, expert_width=32, experts=8, top_k=2, heads=4, kv_heads=2, head_dim=16, renormalize=True
)
_TINY = RELEASED["Qwen3-30B-A3B"] | {
  "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
  "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 4, "vocab_size": 256, "eos_token_id": 1,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", type=Path, required=True, help="folder for report.md and report.json")
  parser.add_argument("--tests", type=Path, help="pytest's --junitxml file, to count what passed")
  parser.add_argument("--model", choices=COMPILED, help="whose decode steps; by default the largest that fits")
  parser.add_argument("--batch", default=",".join(map(str, BATCHES)), help="batch sizes (default: %(default)s)")
  parser.add_argument("--policy", action="append", help="several times for several (default: five of them)")
  parser.add_argument("--skip-ops", action="store_true", help="decode steps only")
  parser.add_argument("--tiny", action="store_true", help="small sizes, on whatever this machine has")
  args = parser.parse_args(argv)
  device = jax.devices()[0]
  if device.platform != "gpu" and not args.tiny:
    print(f"error: JAX runs on {device.platform} here, not on an NVIDIA GPU: check `nvidia-smi`", file=sys.stderr)
    return 2
  name, config = ("tiny", _TINY) if args.tiny else _largest(device, args.model)
  report = _Report(args.out, device, name, spec_from_config(config), _tests(args.tests), tiny=args.tiny)
  report.save()
  policies = [parse_policy(text) for text in args.policy or (POLICIES[:2] if args.tiny else POLICIES)]
  report.measure_steps((1, 4) if args.tiny else [int(one) for one in args.batch.split(",")], policies)
  if not args.skip_ops:
    report.measure_ops([TINY_SHAPE] if args.tiny else list(MODEL_SHAPES.values()))
  print(f"wrote {args.out / 'report.md'} and report.json")
  return 0


class _Report:
  """The report so far, written after every measurement, because a rented machine may be taken back at any time."""

  def __init__(
    self, out: Path, device: Any, model: str, spec: DecoderSpec, tests: dict[str, Any] | None, *, tiny: bool
  ):
    self._out, self._spec, self._tiny, self._begin = out, spec, tiny, time.monotonic()
    self._memory = memory_bandwidth(1 if tiny else 1024)
    self._other_bytes = counts(spec).always_read * 2
    self._about = {
      "device": device.device_kind,
      "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
      "lynx_jax": lynx_jax.__version__,
      "jax": jax.__version__,
      "flax": flax.__version__,
      "python": platform.python_version(),
      "bandwidth": self._memory.best,
      "tests": tests,
      "model": model,
      "profiled": device.platform == "gpu",
      "left_out": [],
    }
    self._rows: list[Row] = []
    self._profiles: list[StepProfile] = []
    self._ops: list[OpTime] = []

  def save(self) -> None:
    """Writes report.md and report.json."""
    parts = {"decode": self._rows, "profiles": self._profiles, "ops": self._ops}
    facts = {part: [dataclasses.asdict(one) for one in of] for part, of in parts.items()}
    lines = markdown(self._about, self._memory, self._rows, self._profiles, self._ops, self._other_bytes)
    self._out.mkdir(parents=True, exist_ok=True)
    write_json(self._out / "report.json", {"about": self._about, "memory": self._memory.by_pass, **facts})
    write_text(self._out / "report.md", "\n".join(lines) + "\n")

  def measure_steps(self, batches: Sequence[int], policies: Sequence[RoutingPolicy]) -> None:
    """Decode steps of random weights, and the kernels of some."""
    steps, length = (4, 16) if self._tiny else (64, 128)
    params = random_params(self._spec)
    jax.block_until_ready(params)
    self._say("weights are there")
    compile_ahead(params, batches, policies, length=length, steps=steps)
    self._say("decodes are compiled")
    for batch in batches:
      try:
        for row in bench_decode(params, [batch], policies, steps=steps, prompt_length=length):
          self._rows.append(row)
          self.save()
      except jax.errors.JaxRuntimeError as error:
        self._leave_out(f"batch {batch}: {error}")
      self._say(f"decode steps of {batch} rows are measured")
    if not self._about["profiled"]:
      return
    for batch, policy in profiled(batches, policies):
      try:
        self._profiles.append(step_profile(params, batch, policy, length=length, steps=steps))
        self.save()
      except RuntimeError as error:
        self._leave_out(f"profile of {batch} rows under {format_policy(policy)}: {error}")
    self._say(f"{len(self._profiles)} decodes are profiled")

  def measure_ops(self, shapes: Sequence[ModelShape]) -> None:
    """Ops at models' sizes."""
    self._ops += op_times(shapes, self._memory.best, capacity=64 if self._tiny else 1024)
    self.save()
    self._say(f"{len(self._ops)} ops are measured")

  def _leave_out(self, what: str) -> None:
    """Says what could not be run: the largest batches may not fit the device beside the weights."""
    self._about["left_out"].append(what.splitlines()[0])
    self._say(f"left out: {what}")
    self.save()

  def _say(self, what: str) -> None:
    print(f"[{time.monotonic() - self._begin:.0f} s] {what}", file=sys.stderr, flush=True)


def profiled(batches: Sequence[int], policies: Sequence[RoutingPolicy]) -> list[tuple[int, RoutingPolicy]]:
  """Pairs to profile: every policy at 16 rows (or at the first size), and the first policy at the smallest size."""
  usual, least = 16 if 16 in batches else batches[0], min(batches)
  return [(usual, policy) for policy in policies] + [(least, policies[0])] * (least != usual)


def _largest(device: Any, name: str | None) -> tuple[str, dict[str, Any]]:
  """The largest released model whose bfloat16 weights take at most 85 % of the device."""
  if name is not None:
    return name, RELEASED[name]
  room = 0.85 * (device.memory_stats() or {}).get("bytes_limit", 0)
  sizes = {known: counts(spec_from_config(RELEASED[known])).total * 2 for known in COMPILED}
  fitting = [known for known, size in sizes.items() if size < room] or [min(sizes, key=sizes.__getitem__)]
  # Many small experts are what batch-aware routing is for.
  chosen = "Qwen3-30B-A3B" if "Qwen3-30B-A3B" in fitting else max(fitting, key=sizes.__getitem__)
  return chosen, RELEASED[chosen]


def _tests(path: Path | None) -> dict[str, Any] | None:
  """Counts of pytest's XML report, and the names of what failed."""
  if path is None:
    return None
  suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
  totals = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
  failed = [
    f"{case.get('classname')}.{case.get('name')}"
    for suite in suites
    for case in suite.iter("testcase")
    if case.find("failure") is not None or case.find("error") is not None
  ]
  return {**totals, "failed": failed}


if __name__ == "__main__":
  sys.exit(main())
