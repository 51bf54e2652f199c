"""The measurements of the engine as tables and lines for people."""

from collections.abc import Sequence

from rich.table import Table

from lynx_jax.bench.engine.arriving_prompts import ArrivingPrompts
from lynx_jax.bench.engine.bench import LoadRow
from lynx_jax.bench.engine.figures import Percentiles, StepKind
from lynx_jax.bench.engine.prefix_hit import PrefixHit
from lynx_jax.bench.engine.programs_ready import ProgramsReady
from lynx_jax.bench.engine.steady_decode import SteadyDecode


def load_table(rows: Sequence[LoadRow]) -> Table:
  """One line for each policy's run of the load, and one for its fixed batches."""
  table = _table(
    "A load; TTFT from arrival to first token, ITL between tokens, p50 / p99 in ms",
    ("policy", "by"),
    ("tokens", "s", "tokens/s", "engine/static", "TTFT", "ITL", "full step", "ITL p99/step", "compiled"),
  )
  for row in rows:
    engine, static = row.engine, row.static
    table.add_row(
      row.policy, "engine", f"{engine.output_tokens}", f"{engine.seconds:.1f}", f"{engine.tokens_per_second:.1f}",
      "" if row.over_static is None else f"{row.over_static:.2f}x", _pair(engine.ttft_ms), _pair(engine.itl_ms),
      _number(engine.full_step_ms, ".2f"), _number(engine.itl_p99_over_step, ".2f"), f"{engine.compiled}",
      end_section=static is None,
    )  # fmt: skip
    if static is not None:
      table.add_row(
        row.policy, f"static, {static.useful:.0%} useful", f"{static.output_tokens}", f"{static.seconds:.1f}",
        f"{static.tokens_per_second:.1f}", "", _pair(static.ttft_ms), "", "", "", f"{static.compiled}",
        end_section=True,
      )  # fmt: skip
  return table


def steps_table(rows: Sequence[LoadRow]) -> Table:
  """What the engine's steps did: one line for each policy and kind of step."""
  table = _table(
    "The engine's steps: means, times are medians; experts are distinct ones a layer",
    ("policy", "steps"),
    ("count", "rows", "prompt tokens", "step ms", "experts", "own", "host ms", "dispatch ms", "KV waste"),
  )
  for row in rows:
    for name, kind in (("decode", row.engine.decode), ("mixed", row.engine.mixed)):
      if kind is not None:
        table.add_row(row.policy, name, *_kind(kind), f"{row.engine.kv_waste:.1%}", end_section=name == "mixed")
  return table


def summary_lines(
  steady: Sequence[tuple[str, SteadyDecode]],
  arriving: Sequence[ArrivingPrompts],
  prefix: PrefixHit | None,
  programs: ProgramsReady | None,
) -> list[str]:
  """A line for each measurement beside the load."""
  lines = [
    f"steady decode of {one.rows} rows, {policy}: engine {one.engine_ms:.2f} ms a step, decode_loop "
    f"{one.loop_ms:.2f} ms; {one.ratio:.3f} of its speed"
    for policy, one in steady
  ]
  for one in arriving:
    how = "chunks as large as they can be" if one.step_ms is None else f"step_ms={one.step_ms:.2f}"
    lines.append(
      f"prompts of {one.prompt} arrive beside {one.rows} rows, {how}: ITL p50 {one.itl_p50_ms:.2f} ms, p99 "
      f"{one.itl_p99_ms:.2f} ms, {one.over_pure:.2f} times the pure step of {one.pure_ms:.2f} ms; "
      f"TTFT {one.ttft_ms:.0f} ms"
    )
  if prefix is not None:
    lines.append(
      f"prefix hit of {prefix.cached} of {prefix.prompt} tokens: TTFT {prefix.hit_ms:.1f} ms, cold "
      f"{prefix.cold_ms:.1f} ms; {prefix.ratio:.3f} of cold"
    )
  if programs is not None:
    lines.append(
      f"{programs.programs} programs: compiled in {programs.compile_seconds:.1f} s, from the disk in "
      f"{programs.disk_seconds:.2f} s; {programs.ratio:.3f} of compiling"
    )
  return lines


def _kind(kind: StepKind) -> tuple[str, ...]:
  return (
    f"{kind.steps}", f"{kind.rows:.1f}", f"{kind.chunk_tokens:.1f}", f"{kind.step_ms:.2f}", f"{kind.experts:.1f}",
    _number(kind.own_experts, ".1f"), f"{kind.host_ms:.3f}", f"{kind.dispatch_ms:.3f}",
  )  # fmt: skip


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
  table = Table(title=title)
  for heading in names:
    table.add_column(heading, no_wrap=True)
  for heading in numbers:
    table.add_column(heading, justify="right")
  return table


def _pair(found: Percentiles | None) -> str:
  return "" if found is None else f"{found.p50:.1f} / {found.p99:.1f}"


def _number(found: float | None, form: str) -> str:
  return "" if found is None else format(found, form)
