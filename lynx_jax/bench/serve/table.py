"""The figures of loads as tables for people."""

from collections.abc import Sequence

from rich.table import Table

from lynx_jax.bench.serve.figures import ServeFigures, Spread


def serve_table(rows: Sequence[tuple[str, ServeFigures]]) -> Table:
  """One line a load; the first column says what it was."""
  table = Table(title="What clients see; TTFT, ITL, TPOT, E2E: p50 / p99 in ms")
  table.add_column("load", no_wrap=True)
  for heading in ("requests", "failed", "s", "req/s", "tokens/s", "TTFT", "ITL", "TPOT", "E2E", "good", "good/s"):
    table.add_column(heading, justify="right")
  for name, found in rows:
    table.add_row(
      name, str(found.requests), str(sum(found.failed.values())), f"{found.seconds:.1f}",
      f"{found.requests_per_second:.2f}", f"{found.tokens_per_second:.1f}",
      *map(_pair, (found.ttft_ms, found.itl_ms, found.tpot_ms, found.e2e_ms)),
      "" if found.good is None else str(found.good), "" if found.goodput is None else f"{found.goodput:.2f}",
    )  # fmt: skip
  return table


def _pair(found: Spread | None) -> str:
  return "" if found is None else f"{found.p50:.1f} / {found.p99:.1f}"
