"""Measures what `Auto` saves and costs at each batch size and mix, beside `Prune` at the same number of experts.

    python -m benchmarks.claims.auto_cost --text .work/evaluation/text.jsonl --batch 4,8,16,32 \
      --mix mixed,one-domain,adversarial

Two bounds are checked: `MOST_INCREASE` of cross-entropy, and `MOST_DIVERGENCE`, a share of Prune's divergence. With
`--bound` the program measures the bound on routing weights that `Auto` states itself, at every step and layer.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from rich import box
from rich.console import Console
from rich.table import Table

import lynx_jax
from benchmarks.claims.auto_bound import spent_by_auto
from benchmarks.results import add_result_options, keep
from checkpoints_convert.files import write_json
from lynx_jax.evals.bootstrap import Interval
from lynx_jax.evals.compare import PolicyCost, fewest_within, measure_policies, summarize, times_cheaper
from lynx_jax.evals.mixes import MIXES, BatchMaker, cut
from lynx_jax.evals.text_files import read_texts, token_streams
from lynx_jax.models.params import Params
from lynx_jax.routing import Auto, Prune

MOST_INCREASE = 0.01
MOST_DIVERGENCE = 1 / 3

# The policy adds up savings in fixed point, of 23 bits or more.
_ROUNDING = 1e-5
_SHARES = (0.1, 0.25, 1.0, 1.5, 2.5)
_COST_ABOUT = (
  "`Auto()` beside pruning. Rows of *mixed* batches come from all sources, of *one-domain* batches from one; "
  "*adversarial* batches share as few experts as possible. Prune's KL is that of plain top-k reduction at the same "
  "number of experts, in multiples of Auto's. *Most within bounds* is what Auto, at any price, leaves out with less "
  "than 1 % more cross-entropy and at most a third of pruning's divergence. Brackets are 95 % intervals over batches."
)
_BOUND_ABOUT = (
  "`Auto()` states a bound on the weights that a step loses. This is the share of it that is spent, at every layer and "
  "step."
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AutoCost:
  """`Auto()` on some batches.

  Attributes:
    mix: how rows were put together.
    batch: rows a batch.
    cost: what it reads and costs.
    prune: Prune's divergence at the same number of experts, divided by that of `Auto()`. It is interpolated between
      Prune's knobs; None where all of them read more experts, or all fewer.
    fewest: the fewest experts at which Auto, at any price, keeps both bounds; None where no knob of Prune is near.
    prune_each: by k0, the divergence of Prune(k0) over that of Auto interpolated to the experts that Prune(k0) reads.
  """

  mix: str
  batch: int
  cost: PolicyCost
  prune: Interval | None
  fewest: float | None
  prune_each: dict[int, Interval]


def check_auto(
  params: Params, batches: Sequence[Int32[np.ndarray, "B L"]], mix: str, progress: Callable[[int], None]
) -> AutoCost:
  """Measures `Auto` at several prices and Prune at every size on the same batches.

  Raises:
    ValueError: the model has no experts.
  """
  moe = next(iter(params.spec.moe_specs), None)
  if moe is None:
    raise ValueError("this model has no experts: there is nothing to route")
  sizes = range(1, moe.top_k)
  policies = [Auto(), *map(Auto, _SHARES), *map(Prune, sizes)]
  auto, *others = measure_policies(params, batches, policies, progress=progress)
  priced, pruned = [auto, *others[: len(_SHARES)]], others[len(_SHARES) :]
  each = {}
  for k0, costs in zip(sizes, pruned, strict=True):
    found = times_cheaper(costs, priced)
    if found is not None:
      each[k0] = Interval(value=1 / found.value, low=1 / found.high, high=1 / found.low)
  return AutoCost(
    mix=mix,
    batch=len(batches[0]),
    cost=summarize(auto),
    prune=times_cheaper(auto, pruned) if pruned else None,
    fewest=fewest_within(priced, pruned, increase=MOST_INCREASE, divergence=MOST_DIVERGENCE) if pruned else None,
    prune_each=each,
  )


def table(rows: Sequence[AutoCost]) -> Table:
  """The results as a Markdown table."""
  found = Table(title="What Auto saves and costs", box=box.MARKDOWN)
  for heading in (
    "mix", "batch", "experts", "of", "fewer", "cross-entropy", "KL, thousandths of a nat", "worst row keeps",
    "Prune's KL, same experts", "most within bounds", "Prune(k0), same experts",
  ):  # fmt: skip
    found.add_column(heading, no_wrap=True)
  for row in rows:
    cost = row.cost
    found.add_row(
      row.mix, str(row.batch), f"{cost.experts.value:.1f}", f"{cost.own_experts.value:.1f}",
      f"{1 - cost.experts.value / cost.own_experts.value:.0%}",
      f"{cost.increase.value:+.2%} [{cost.increase.low:+.2%}, {cost.increase.high:+.2%}]",
      _span(cost.divergence, 1e3), f"{cost.worst_retained:.2f}",
      "" if row.prune is None else f"{_span(row.prune)} x",
      "" if row.fewest is None else f"{1 - row.fewest / cost.own_experts.value:.0%} fewer",
      "; ".join(f"{k0}: {_span(times)} x" for k0, times in row.prune_each.items()),
    )  # fmt: skip
  return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BoundSpent:
  """How much of its stated bound `Auto()` uses.

  Attributes:
    mix, batch: as in `AutoCost`.
    steps: layers and steps that were looked at.
    left_out: mean share of the experts of the model's own routing that are not read.
    mean, most: loss divided by what is allowed, over the layers and steps where something is left out.
    above: layers and steps whose loss is more than is allowed.
  """

  mix: str
  batch: int
  steps: int
  left_out: float
  mean: float
  most: float
  above: int


def check_bound(params: Params, batches: Sequence[Int32[np.ndarray, "B L"]], mix: str) -> BoundSpent:
  """Measures what `Auto()` loses of its rows' weights at every step and layer, and the loss that its bound allows."""
  spent = spent_by_auto(params, batches, Auto())
  shares = spent.shares
  return BoundSpent(
    mix=mix, batch=len(batches[0]), steps=spent.loss.size, left_out=float(spent.saved.mean()),
    mean=float(shares.mean()) if shares.size else 0.0, most=float(shares.max(initial=0.0)),
    above=int((spent.loss > spent.allowed + _ROUNDING).sum()),
  )  # fmt: skip


def bound_table(rows: Sequence[BoundSpent]) -> Table:
  """The results as a Markdown table."""
  found = Table(title="What Auto spends of its bound", box=box.MARKDOWN)
  for heading in ("mix", "batch", "layers and steps", "experts left out", "of the bound, mean", "most", "above it"):
    found.add_column(heading, no_wrap=True)
  for row in rows:
    found.add_row(
      row.mix, str(row.batch), f"{row.steps:,}", f"{row.left_out:.0%}", f"{row.mean:.2f}", f"{row.most:.2f}",
      str(row.above),
    )  # fmt: skip
  return found


def _span(interval: Interval, scale: float = 1.0) -> str:
  value, low, high = (scale * x for x in (interval.value, interval.low, interval.high))
  return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", metavar="PATH", help="checkpoint directory; the embedded model by default")
  parser.add_argument("--text", nargs="+", type=Path, required=True, metavar="FILE")
  parser.add_argument("--batch", default="4,8,16,32", help="numbers of rows, with commas")
  parser.add_argument("--mix", default=",".join(MIXES), help=f"of {', '.join(MIXES)}, with commas")
  parser.add_argument("--windows", type=int, default=8, metavar="N", help="batches a mix and size (default: 8)")
  parser.add_argument("--length", type=int, default=128, metavar="N", help="tokens a row (default: 128)")
  parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as a list of objects")
  parser.add_argument("--bound", action="store_true", help="measure what Auto spends of the bound that it states")
  add_result_options(parser)
  args = parser.parse_args(argv)
  params = lynx_jax.load(args.model)
  windows = cut(token_streams(params, read_texts(args.text)), args.length)
  maker = BatchMaker(params, windows)
  rows: list[Any] = []
  for batch in map(int, args.batch.split(",")):
    for mix in args.mix.split(","):
      chosen = maker.indices(mix, batch, args.windows)
      if not chosen:
        raise SystemExit(f"no {mix} batch of {batch} rows of {args.length} tokens can be made: give more text")
      print(f"{mix}, batch {batch}", file=sys.stderr, flush=True)
      batches = [windows.tokens[indices] for indices in chosen]
      rows.append(check_bound(params, batches, mix) if args.bound else check_auto(params, batches, mix, lambda _: None))
  printed = (bound_table if args.bound else table)(rows)
  Console(width=220).print(printed)
  name, about = ("auto_bound", _BOUND_ABOUT) if args.bound else ("auto_cost", _COST_ABOUT)
  keep(args, printed, argv, module="benchmarks.claims.auto_cost", name=name, about=about)
  if args.json:
    write_json(args.json, [dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
  main()
