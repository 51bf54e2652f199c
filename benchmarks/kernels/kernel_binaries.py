"""Compiles every kernel for GPUs that are not here, and tabulates registers, spills, shared memory and launches.

    python -m benchmarks.kernels.kernel_binaries --results docs/results --machine kernel-binaries

Needs the extra `gates`, no GPU. It takes long: tens of minutes on two busy cores.
"""

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeAlias

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.kernels.decode_program import COMPILED, STATE, decode_program
from benchmarks.results import add_result_options, keep
from lynx_jax.estimate.roofline import ITEM_BYTES
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.released import RELEASED
from lynx_jax.models.sizes import counts
from lynx_jax.routing import Lynx, RoutingPolicy
from pallas_kernels import gates
from pallas_kernels.append_heads import gate_programs as append_heads
from pallas_kernels.chunk_attention import gate_programs as chunk_attention
from pallas_kernels.decode_attention import gate_programs as decode_attention
from pallas_kernels.expert_ffn import gate_programs as expert_ffn
from pallas_kernels.gates.shapes import MODEL_SHAPES
from pallas_kernels.gates.targets import H200
from pallas_kernels.latent_attention import gate_programs as latent_attention
from pallas_kernels.lynx_route import gate_programs as lynx_route
from pallas_kernels.row_matmul import gate_programs as row_matmul

_OPS_ABOUT = (
  "The worst of an op's kernels over its programs at one model's sizes, as XLA and ptxas compile them without a GPU, "
  "with the block sizes of the rule; those measured on GPUs differ."
)
_LOOPS_ABOUT = (
  "Whole decode loops over a cache of 1024 positions, bfloat16, abstract weights. *Kernels a layer* is the difference "
  "between loops of different depth. *Kernels a step* counts about 80 alternatives of sampling, of which greedy "
  "decoding runs few. *Temporary memory* is what the program allocates beside weights and state."
)
# Each op's programs, and the names of its kernels; other kernels of a program are XLA's own.
OPS: dict[str, tuple[ModuleType, tuple[str, ...]]] = {
  "row_matmul": (row_matmul, ("row_matmul",)),
  "append_heads": (append_heads, ("append_heads",)),
  "decode_attention": (decode_attention, ("decode_attention", "join_attention")),
  "latent_attention": (latent_attention, ("latent_attention", "join_attention")),
  "chunk_attention": (chunk_attention, ("chunk_attention",)),
  "lynx_route": (lynx_route, ("lynx_route",)),
  "expert_ffn": (expert_ffn, ("expert_hidden", "expert_down")),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OpFigures:
  """The worst of an op's kernels over its programs at one model's sizes, on one target."""

  op: str
  model: str
  target: str
  programs: int
  registers: int
  spill_bytes: int
  shared_memory: int
  blocks: int
  occupancy: float
  tensor_core: tuple[str, ...]


Programs: TypeAlias = dict[str, tuple[Callable[..., Any], Any]]


def programs_of(op: str) -> dict[str, Programs]:
  """An op's programs, by the model whose sizes they have."""
  if op == "latent_attention":
    return {model: latent_attention.programs(heads) for model, heads in latent_attention.HEADS.items()}
  found = {shape.name: OPS[op][0].programs(shape) for shape in MODEL_SHAPES.values()}
  if op == "chunk_attention":
    latents = {model: chunk_attention.latent_program(heads) for model, heads in chunk_attention.LATENT_HEADS.items()}
    found |= {f"{model}, latents": {"mixed step": program} for model, program in latents.items()}
  if op == "lynx_route":
    # The programs above have softmax routers; these have the others.
    routed = {model: lynx_route.programs_of_router(model, ("topk", "lynx")) for model in lynx_route.ROUTERS}
    found |= {f"{model}'s router": programs for model, programs in routed.items()}
  return found


def op_figures(op: str, model: str, target: str) -> OpFigures:
  """Compiles every program of an op at one model's sizes."""
  print(f"{op} {model} {target}", file=sys.stderr, flush=True)
  module, names = OPS[op]
  programs, kernels = programs_of(op)[model], []
  for fn, args in programs.values():
    report = gates.compile_for(fn, args, target, donate_argnums=getattr(module, "CACHES", ()))
    kernels += [kernel for name, kernel in report.kernels.items() if name.split("__")[0] in names]
  gpu = gates.TARGETS[target]
  return OpFigures(
    op=op,
    model=model,
    target=target,
    programs=len(programs),
    registers=max(kernel.registers for kernel in kernels),
    spill_bytes=sum(kernel.spill_bytes for kernel in kernels),
    shared_memory=max(kernel.shared_memory for kernel in kernels),
    blocks=min(kernel.blocks_per_sm(gpu) for kernel in kernels),
    occupancy=min(kernel.occupancy(gpu) for kernel in kernels),
    tensor_core=tuple(sorted({instruction for kernel in kernels for instruction in kernel.tensor_core})),
  )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoopFigures:
  """A whole decode loop, compiled."""

  model: str
  target: str
  policy: str
  layers: int
  launches_a_layer: float
  launches: int
  temporary_mb: float
  seconds: float


def loop_figures(name: str, policy: RoutingPolicy | None) -> LoopFigures:
  """Compiles a released model's loop at batch 16; GateError where it is not one graph or copies a cache."""
  print(f"decode loop of {name}", file=sys.stderr, flush=True)
  config = RELEASED[name]
  fits = counts(spec_from_config(config)).total * ITEM_BYTES < 0.85 * gates.TARGETS["h100"].memory
  target = gates.TARGETS["h100"] if fits else H200
  short = len(gates.kernel_launches(_compile(config | {"num_hidden_layers": 1}, policy, target)))
  report, layers = _compile(config, policy, target), config["num_hidden_layers"]
  launches = len(gates.kernel_launches(report))
  return LoopFigures(
    model=name,
    target=target.name,
    policy="Lynx" if policy else "top-k",
    layers=layers,
    launches_a_layer=(launches - short) / (layers - 1),
    launches=launches,
    temporary_mb=report.temporary_bytes / 1e6,
    seconds=report.seconds,
  )


def _compile(config: dict[str, Any], policy: RoutingPolicy | None, target: gates.Target) -> gates.Report:
  fn, args = decode_program(config, policy)
  report = gates.compile_for(fn, args, target, donate_argnums=(STATE,))
  gates.captured(report)
  gates.no_copy_of(report, min(part.size * 2 for layer in args[STATE].cache for part in layer))
  return report


def op_table(rows: Sequence[OpFigures]) -> Table:
  """A line an op and model, both targets side by side."""
  table = Table(title="Kernels as compiled for A100 / H100")
  for heading in (
    "op", "model", "programs", "spills", "registers", "shared KB", "blocks an SM", "occupancy", "matrix instructions",
  ):  # fmt: skip
    table.add_column(heading)
  for first, second in zip(rows[::2], rows[1::2], strict=True):
    pair = (first, second)

    def both(text: Callable[[OpFigures], str], pair: tuple[OpFigures, OpFigures] = pair) -> str:
      return " / ".join(text(figures) for figures in pair)

    matrix = sorted({instruction for figures in pair for instruction in figures.tensor_core})
    table.add_row(
      first.op,
      first.model,
      str(first.programs),
      both(lambda f: str(f.spill_bytes)),
      both(lambda f: str(f.registers)),
      both(lambda f: f"{f.shared_memory / 1024:.0f}"),
      both(lambda f: str(f.blocks)),
      both(lambda f: f"{100 * f.occupancy:.0f} %"),
      ", ".join(matrix) or "none: no product in it",
    )
  return table


def loop_table(rows: Sequence[LoopFigures]) -> Table:
  """A line a decode loop."""
  table = Table(title="Decode loops of 16 rows as compiled")
  for heading in (
    "model", "GPU", "policy", "layers", "kernels a layer", "kernels a step", "temporary memory", "compile time",
  ):  # fmt: skip
    table.add_column(heading)
  for row in rows:
    table.add_row(
      row.model, row.target.upper(), row.policy, str(row.layers), f"{row.launches_a_layer:.1f}", str(row.launches),
      f"{row.temporary_mb:.1f} MB", f"{row.seconds:.0f} s",
    )  # fmt: skip
  return table


def _without_a_gpu() -> None:
  # Nothing runs, so JAX need not look for a GPU, and fail where there is none.
  jax.config.update("jax_platforms", "cpu")


def main(argv: Sequence[str] | None = None) -> None:
  """Compiles everything, prints two tables, and keeps them where `--results` is given."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
  add_result_options(parser)
  args = parser.parse_args(argv)
  _without_a_gpu()
  subjects = [(op, model, target) for op in OPS for model in programs_of(op) for target in gates.TARGETS]
  with concurrent.futures.ProcessPoolExecutor(
    args.jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_without_a_gpu
  ) as pool:
    ops = op_table(list(pool.map(op_figures, *zip(*subjects, strict=True))))
  # One after the other: their compile times are in the table.
  loops = loop_table([loop_figures(name, policy) for name in COMPILED for policy in (None, Lynx(3, 2))])
  for table, name, about in ((ops, "kernels", _OPS_ABOUT), (loops, "decode_loops", _LOOPS_ABOUT)):
    Console(width=160).print(table)
    keep(args, table, argv, module="benchmarks.kernels.kernel_binaries", name=name, about=about)


if __name__ == "__main__":
  main()
