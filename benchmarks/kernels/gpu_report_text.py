"""The lines of `gpu_report`'s Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.kernels.memory_bandwidth import MemoryBandwidth
from benchmarks.kernels.op_times import OpTime
from benchmarks.kernels.step_profile import StepProfile
from lynx_jax.bench.decode import Row

# Kernels of a step that have a line of their own.
_SHOWN = 16


def markdown(
  about: dict[str, Any],
  memory: MemoryBandwidth,
  rows: Sequence[Row],
  profiles: Sequence[StepProfile],
  ops: Sequence[OpTime],
  other_bytes: int,
) -> Iterator[str]:
  """The report's lines; parts that were not measured are left out.

  Args:
    about: versions, the date, the device, the model, counts of tests.
    memory: what rooflines count on.
    rows: decode steps.
    profiles: kernels of decode steps.
    ops: times of single ops.
    other_bytes: weights that a step reads beside experts.
  """
  yield f"# {about['model']} on {about['device']}, {about['date']}"
  yield ""
  yield ", ".join(f"{name} {about[name]}" for name in ("lynx_jax", "jax", "flax", "python")) + "."
  passes = ", ".join(f"{name} {speed / 1e9:.0f}" for name, speed in memory.by_pass.items())
  yield f"Memory is read at {memory.best / 1e9:.0f} GB/s, the fastest of passes over one large array ({passes})."
  if tests := about["tests"]:
    bad = tests["failures"] + tests["errors"]
    yield f"Tests on the device: {tests['tests']}, of which {bad} failed and {tests['skipped']} were skipped."
    yield from (f"- failed: {name}" for name in tests["failed"])
  if rows or about["left_out"]:
    yield from _decode_steps(about, memory, rows, other_bytes)
  for profile in profiles:
    yield from _profile(profile)
  if ops:
    yield from _ops(about, ops)


def _decode_steps(
  about: dict[str, Any], memory: MemoryBandwidth, rows: Sequence[Row], other_bytes: int
) -> Iterator[str]:
  yield ""
  yield f"## Decode steps of {about['model']}, random weights"
  yield ""
  yield "Medians by the clock, all steps of a decode in one program. The floor is the time to read the weights of the"
  yield "experts that run and all other weights once, at the speed above; caches and activations are not in it."
  yield ""
  yield "| batch | policy | step ms | tokens/s | experts | own | floor ms | floor of step | routing ms | speed-up |"
  yield "|---|---|---|---|---|---|---|---|---|---|"
  for row in rows:
    floor = 1e3 * (row.expert_bytes + other_bytes) / memory.best
    yield (
      f"| {row.batch} | {row.policy} | {row.step_ms:.2f} | {row.tokens_per_second:.0f} | {row.active_experts:.1f} | "
      f"{row.own_experts:.1f} | {floor:.2f} | {100 * floor / row.step_ms:.0f} % | {row.routing_ms:.3f} | "
      f"{row.speedup:.2f}x |"
    )
  yield from (f"- left out: {what}" for what in about["left_out"])


def _profile(profile: StepProfile) -> Iterator[str]:
  yield ""
  yield f"## Kernels of a step of {profile.batch} rows under {profile.policy}"
  yield ""
  yield f"{profile.step_ms:.2f} ms a step by the clock, with the profiler on; kernels' own times add up to"
  yield f"{profile.busy_us / 1e3:.2f} ms."
  yield ""
  yield "| us a step | launches a step | average us | kernel |"
  yield "|---|---|---|---|"
  for kernel in profile.kernels[:_SHOWN]:
    yield f"| {kernel.us:.1f} | {kernel.launches:.1f} | {kernel.us / kernel.launches:.2f} | {kernel.name} |"
  if others := profile.kernels[_SHOWN:]:
    us, launches = sum(kernel.us for kernel in others), sum(kernel.launches for kernel in others)
    yield f"| {us:.1f} | {launches:.1f} | {us / launches:.2f} | {len(others)} others |"


def _ops(about: dict[str, Any], ops: Sequence[OpTime]) -> Iterator[str]:
  yield ""
  yield "## Ops"
  yield ""
  if about["profiled"]:
    yield "Time of a call: the sum of the kernels that it launches, by the profiler, caches flushed before each. The"
  else:
    yield "Time of a call by the clock, for a look at the table: kernels' own times are measured on GPUs. The"
  yield "roofline is its bytes at the speed above, the difference from the reference relative to its largest value."
  yield ""
  yield "| op | model | case | us | roofline us | share | difference |"
  yield "|---|---|---|---|---|---|---|"
  for op in ops:
    share = f"{100 * op.roofline_us / op.us:.0f} %" if op.us else "-"
    yield f"| {op.op} | {op.model} | {op.case} | {op.us:.1f} | {op.roofline_us:.1f} | {share} | {op.error:.1e} |"
