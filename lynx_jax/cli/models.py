"""`convert`, `info` and `estimate`: what a checkpoint or a configuration is, and would take."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from lynx_jax.cli.options import add_weights


def add_commands(verbs: Any) -> None:
  """Adds the commands to the parser's verbs."""
  convert = verbs.add_parser("convert", help="convert a Hugging Face directory")
  convert.add_argument("source")
  convert.add_argument("destination")
  convert.add_argument("--dtype", help="bfloat16, float16 or float32; the checkpoint's by default")
  convert.add_argument("--to", choices=("orbax", "hf"), default="orbax", help="form to write (default: orbax)")
  add_weights(convert)
  convert.add_argument("--force", action="store_true", help="replace an existing destination")
  convert.set_defaults(run=_convert)

  info = verbs.add_parser("info", help="describe a model: configuration, parameters, bytes per token, policies")
  info.add_argument(
    "path", nargs="?", help="a directory, a config.json, or a released model's name; the embedded model by default"
  )
  add_weights(info)
  info.add_argument("--json", action="store_true", help="print one JSON object")
  info.set_defaults(run=_info)

  estimate = verbs.add_parser("estimate", help="a decode step's time on a GPU, from a configuration alone")
  what = estimate.add_mutually_exclusive_group(required=True)
  what.add_argument(
    "--config", metavar="FILE", help="a config.json, or the name of a released model: Qwen3-30B-A3B, ..."
  )
  what.add_argument("--check", action="store_true", help="print the estimate beside published measurements")
  estimate.add_argument("--gpu", choices=("a100", "h100", "h200"), default="h100")
  estimate.add_argument("--batch", type=int, default=16, metavar="N", help="rows (default: 16)")
  estimate.add_argument("--active", metavar="N,N", help="distinct experts a layer, the first without a policy")
  estimate.add_argument("--context", type=int, default=1024, metavar="N", help="tokens in the cache (default: 1024)")
  estimate.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs that share each layer (default: 1)")
  add_weights(estimate)
  estimate.set_defaults(run=_estimate)


def _convert(args: argparse.Namespace) -> None:
  from checkpoints_convert.abandoned_reads import silence_abandoned_reads
  from checkpoints_convert.interruption import interruptible
  from checkpoints_convert.progress import bars
  from lynx_jax.models.checkpoints import convert

  silence_abandoned_reads()
  with interruptible("lynx-jax: ", args.destination), bars() as report:
    convert(
      args.source, args.destination, dtype=args.dtype, to=args.to, force=args.force, weights=args.weights, report=report
    )
  print(f"wrote {args.destination}")


def _info(args: argparse.Namespace) -> None:
  from lynx_jax.info import describe

  facts = describe(args.path, args.weights)
  if args.json:
    print(json.dumps(dict(facts), indent=2))
  elif sys.stdout.isatty():
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in facts:
      table.add_row(name, value)
    Console().print(table)
  else:
    # One fact a line, whatever its length: what reads a pipe has no width.
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
      print(f"{name:{width}}  {value}")


def _form_names(stored: Mapping[str, Any]) -> str:
  """What weights are held as: the forms of those that files hold quantised, or bfloat16."""
  return ", ".join(sorted({one.form.name for one in stored.values()})) or "bfloat16"


def _estimate(args: argparse.Namespace) -> None:
  from rich.console import Console

  from lynx_jax.estimate.published import checks
  from lynx_jax.estimate.roofline import GPUS, MOST_GPUS, MXFP4_EXPERTS, estimates, fit_line, saving_line, step_size
  from lynx_jax.estimate.table import checks_table, estimate_table
  from lynx_jax.info import read_config
  from lynx_jax.models.checkpoints import expected_held
  from lynx_jax.models.families import spec_from_config
  from lynx_jax.placement import check_weights
  from pallas_kernels.checks import whole_number

  console = Console(width=None if sys.stdout.isatty() else 140)
  if args.check:
    console.print(checks_table(checks()))
    return
  config = read_config(args.config)
  spec = spec_from_config(config)
  whole_number("--batch", args.batch, least=1, most=2**20)
  whole_number("--gpus", args.gpus, least=1, most=MOST_GPUS, remedy="a layer is split over one NVLink domain at most")
  whole_number("--context", args.context, least=1, most=spec.context, remedy="the model's context is the most it has")
  if args.weights != MXFP4_EXPERTS:
    check_weights(args.weights)
  stored = {} if args.weights else expected_held(spec, config, args.config)
  size = step_size(spec, args.weights, stored)
  try:
    active = [float(part) for part in args.active.split(",")] if args.active else [size.likely_experts(args.batch)]
  except ValueError as error:
    raise ValueError(f"--active is {args.active!r}: expected numbers with commas, such as 48.8,25.1") from error
  times = estimates(size, GPUS[args.gpu], active, batch=args.batch, context=args.context, gpus=args.gpus)
  machine = args.gpu.upper() if args.gpus == 1 else f"{args.gpus} {args.gpu.upper()}"
  rows = f"a decode step of {args.batch} rows, {args.context} tokens each"
  title = f"{args.config} on {machine}: {rows}, {args.weights or _form_names(stored)}"
  console.print(estimate_table(title, size, times, args.batch))
  print(fit_line(size, GPUS[args.gpu], batch=args.batch, context=args.context, gpus=args.gpus))
  if args.weights or stored:
    whole, step = step_size(spec), {"batch": args.batch, "context": args.context, "gpus": args.gpus}
    print(saving_line(size, whole, GPUS[args.gpu], active=active[0], **step))
    print("Kernels that read such weights are compiled for GPUs, and no GPU has timed them yet.")
  if not args.active:
    print("Experts: tokens that choose independently and evenly. Real text touches fewer; give --active.")
