"""Measures this machine's GPU and writes one Markdown report and its JSON: what `make gpu` runs.

python -m lynx_jax.bench.gpu_report --out docs/gpu [--tests junit.xml]
"""

import argparse
import dataclasses
import datetime
import platform
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import nnx

import lynx_jax
from lynx_jax.bench.decode import Row, bench_decode
from lynx_jax.bench.decode_program import COMPILED
from lynx_jax.bench.op_speed import OpTime, copy_bandwidth, op_times
from lynx_jax.files import write_json, write_text
from lynx_jax.models.counts import counts
from lynx_jax.models.decoder import Decoder
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.params import Params
from lynx_jax.models.released import RELEASED
from lynx_jax.routing import parse_policy
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
  parser.add_argument("--tiny", action="store_true", help="small sizes, on whatever this machine has")
  args = parser.parse_args(argv)
  device = jax.devices()[0]
  if device.platform != "gpu" and not args.tiny:
    print(f"error: JAX runs on {device.platform} here, not on an NVIDIA GPU: check `nvidia-smi`", file=sys.stderr)
    return 2
  shapes = [TINY_SHAPE] if args.tiny else list(MODEL_SHAPES.values())
  name, config = ("tiny", _TINY) if args.tiny else _largest(device, args.model)
  spec = spec_from_config(config)
  about = {
    "device": device.device_kind,
    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    "lynx_jax": lynx_jax.__version__,
    "jax": jax.__version__,
    "flax": flax.__version__,
    "python": platform.python_version(),
    "bandwidth": copy_bandwidth(1 if args.tiny else 1024),
    "tests": _tests(args.tests),
    "model": name,
  }
  ops: list[OpTime] = []
  rows: list[Row] = []

  def save() -> None:
    parts = {"ops": ops, "decode": rows}
    facts = {"about": about, **{part: [dataclasses.asdict(one) for one in of] for part, of in parts.items()}}
    write_json(args.out / "report.json", facts)
    write_text(args.out / "report.md", "\n".join(markdown(about, ops, rows, counts(spec).always_read * 2)) + "\n")

  # Each part is kept as soon as it is measured: machines with GPUs are taken back.
  args.out.mkdir(parents=True, exist_ok=True)
  for shape in shapes:
    print(f"ops of {shape.name}", file=sys.stderr, flush=True)
    ops += op_times(shape, about["bandwidth"], capacity=64 if args.tiny else 1024)
    save()
  print(f"decode steps of {name}", file=sys.stderr, flush=True)
  params = Params(jax.jit(lambda: Decoder(spec, rngs=nnx.Rngs(0), dtype=jnp.bfloat16))())
  policies = [parse_policy(text) for text in args.policy or (POLICIES[:2] if args.tiny else POLICIES)]
  batches, steps = ((1, 4), 4) if args.tiny else ([int(one) for one in args.batch.split(",")], 64)
  for row in bench_decode(params, batches, policies, steps=steps, prompt_length=16 if args.tiny else 128):
    rows.append(row)
    save()
  print(f"wrote {args.out / 'report.md'} and report.json")
  return 0


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


def markdown(about: dict[str, Any], ops: Sequence[OpTime], rows: Sequence[Row], other_bytes: int) -> Iterator[str]:
  """The report's lines."""
  yield f"# {about['device']}, {about['date']}"
  yield ""
  versions = ", ".join(f"{name} {about[name]}" for name in ("lynx_jax", "jax", "flax", "python"))
  yield f"{versions}. Measured bandwidth of an elementwise pass: {about['bandwidth'] / 1e9:.0f} GB/s."
  if tests := about["tests"]:
    bad = tests["failures"] + tests["errors"]
    yield f"Tests on the device: {tests['tests']}, of which {bad} failed and {tests['skipped']} were skipped."
    yield from (f"- failed: {name}" for name in tests["failed"])
  yield ""
  yield "## Ops"
  yield ""
  yield "Time of a call inside a compiled loop; the roofline is its bytes over the measured bandwidth; the difference"
  yield "from the reference is relative to its largest value."
  yield ""
  yield "| op | model | case | us | roofline us | share | difference |"
  yield "|---|---|---|---|---|---|---|"
  for op in ops:
    share = f"{100 * op.roofline_us / op.us:.0f} %" if op.us else "-"
    yield f"| {op.op} | {op.model} | {op.case} | {op.us:.1f} | {op.roofline_us:.1f} | {share} | {op.error:.1e} |"
  yield ""
  yield f"## Decode steps of {about['model']}, random weights"
  yield ""
  yield "| batch | policy | step ms | tokens/s | experts | own | roofline ms | share | routing ms | speed-up |"
  yield "|---|---|---|---|---|---|---|---|---|---|"
  for row in rows:
    floor = 1e3 * (row.expert_bytes + other_bytes) / about["bandwidth"]
    yield (
      f"| {row.batch} | {row.policy} | {row.step_ms:.2f} | {row.tokens_per_second:.0f} | {row.active_experts:.1f} | "
      f"{row.own_experts:.1f} | {floor:.2f} | {100 * floor / row.step_ms:.0f} % | {row.routing_ms:.3f} | "
      f"{row.speedup:.2f}x |"
    )


if __name__ == "__main__":
  sys.exit(main())
