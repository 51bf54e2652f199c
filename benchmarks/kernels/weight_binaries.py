"""Compiles products with weights in every form for GPUs that are not here: registers, spills, instructions a weight.

    python -m benchmarks.kernels.weight_binaries --model Qwen3-30B-A3B

Needs the extra `gates`, no GPU. Instructions are those of PTX in the loop over a product's inputs, moves aside, of one
thread over the weights that it multiplies. ptxas, which assembles PTX, still merges some of them.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.results import add_result_options, keep
from pallas_kernels import gates
from pallas_kernels.expert_ffn import gate_programs as expert_ffn
from pallas_kernels.gates.forms import HELD
from pallas_kernels.gates.shapes import MODEL_SHAPES, ModelShape
from pallas_kernels.gpu.blocks import Blocks, questions
from pallas_kernels.row_matmul import gate_programs as row_matmul

_ABOUT = (
  "Kernels of a decode step of 16 rows as XLA and ptxas compile them without a GPU, for A100 / H100, with the block "
  "sizes of the rule. *Instructions a weight* are those of PTX in the loop over a product's inputs, moves aside."
)
_PARTS = {"expert_hidden": 2, "expert_down": 1, "row_matmul": 1}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
  """One kernel on one target."""

  kernel: str
  target: str
  launches: int
  registers: int
  spill_bytes: int
  blocks_per_sm: int
  instructions: float


def figures(shape: ModelShape, name: str | None, target: str) -> Iterator[Figures]:
  """The kernels of a model's experts and of its projection after attention, with weights of that form."""
  held = None if name is None else HELD[name]
  experts, rows = expert_ffn.programs(shape, held), row_matmul.programs(shape, held)
  for fn, args in (experts["decode, T=16"], rows["output, residual, T=16"]):
    report, cuts = _compiled(fn, args, target)
    for kernel in report.kernels.values():
      if kernel.name not in cuts:
        continue
      blocks = cuts[kernel.name]
      weights = _PARTS[kernel.name] * blocks.columns * blocks.inner / kernel.threads
      yield Figures(
        kernel=kernel.name,
        target=target,
        launches=len(gates.kernel_launches(report)),
        registers=kernel.registers,
        spill_bytes=kernel.spill_bytes,
        blocks_per_sm=kernel.blocks_per_sm(report.target),
        instructions=sum(count for name, count in kernel.loop.items() if not name.startswith("mov")) / weights,
      )


def _compiled(fn: Callable[..., Any], args: Any, target: str) -> tuple[gates.Report, dict[str, Blocks]]:
  """The report, and each kernel's block sizes."""
  with questions() as asked:
    jax.eval_shape(lambda *given: fn(*given), *args)
  report = gates.compile_for(lambda *given: fn(*given), args, target)
  return report, {question[0]: blocks for question, blocks in asked.items()}


def table(shape: ModelShape, names: Sequence[str | None]) -> Table:
  """A line a form and kernel, both targets side by side."""
  made = Table(title=f"Products with weights in every form, {shape.name}, 16 rows, for A100 / H100")
  for heading in ("weights", "kernel", "launches", "spills", "registers", "blocks an SM", "instructions a weight"):
    made.add_column(heading)
  for name in names:
    both = [list(figures(shape, name, target)) for target in ("a100", "h100")]
    for pair in zip(*both, strict=True):
      cells = [
        " / ".join(text(one) for one in pair)
        for text in (
          lambda one: str(one.launches),
          lambda one: str(one.spill_bytes),
          lambda one: str(one.registers),
          lambda one: str(one.blocks_per_sm),
          lambda one: f"{one.instructions:.1f}",
        )
      ]
      made.add_row(name or "bfloat16", pair[0].kernel, *cells)
  return made


def main(argv: Sequence[str] | None = None) -> None:
  """Compiles, prints the table, and keeps it where `--results` is given."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    "--model", choices=MODEL_SHAPES, default="Qwen3-30B-A3B", help="whose sizes (default: %(default)s)"
  )
  parser.add_argument("--form", action="append", choices=HELD, help="several times for several (default: all)")
  add_result_options(parser)
  args = parser.parse_args(argv)
  # Nothing runs, so JAX need not look for a GPU, and fail where there is none.
  jax.config.update("jax_platforms", "cpu")
  made = table(MODEL_SHAPES[args.model], [None, *(args.form or HELD)])
  Console(width=140).print(made)
  keep(args, made, argv, module="benchmarks.kernels.weight_binaries", name="weights", about=_ABOUT)


if __name__ == "__main__":
  main()
