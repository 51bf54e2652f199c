"""What several commands share: flags for a model, loading it, a spinner, numbers of rows, a file for results."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import lynx_jax
from lynx_jax.cli.compilation import announce_programs, keep_programs

if TYPE_CHECKING:
  from lynx_jax.models.params import Params

_DTYPES = {
  "bf16": "bfloat16", "bfloat16": "bfloat16", "f16": "float16", "float16": "float16", "f32": "float32",
  "float32": "float32",
}  # fmt: skip


def add_model(parser: argparse.ArgumentParser, *, several_weights: bool = False) -> None:
  """Flags that say which weights, in which dtype; with `several_weights`, held in which forms, compared in one run."""
  parser.add_argument(
    "--model", metavar="PATH", help="checkpoint directory, .gguf file, or hub name; the embedded model by default"
  )
  parser.add_argument("--dtype", help="bfloat16, float16 or float32; the checkpoint's by default")
  if several_weights:
    how = "hold weights in each of these forms: int8, int4, float, or a dtype such as bf16, with commas"
    parser.add_argument("--weights", metavar="FORM,FORM", help=how)
  else:
    add_weights(parser)
  parser.add_argument(
    "--no-compilation-cache", action="store_true", help="compile anew instead of keeping programs between runs"
  )


def add_weights(parser: argparse.ArgumentParser) -> None:
  """The flag that says how weights are held."""
  how = "hold weights in 8 bits; or experts in 4 bits and the others in 8; or plain numbers (default: as in the files)"
  parser.add_argument("--weights", metavar="int8|int4|float", help=how)


@contextlib.contextmanager
def status(message: str) -> Iterator[Callable[[str], None]]:
  """A spinner on standard error while work goes on; silent where that is not a terminal."""
  from rich.console import Console

  console = Console(stderr=True)
  if not console.is_terminal:
    yield lambda message: None
    return
  with console.status(message) as status:
    yield status.update


def load(args: argparse.Namespace) -> "Params":
  """The model of `--model`; from here on compiled programs are kept between runs."""
  _prepare(args)
  with status(f"loading {args.model or 'the embedded model'}"):
    return lynx_jax.load(args.model, dtype=args.dtype, weights=args.weights)


def load_forms(args: argparse.Namespace) -> "dict[str, Params]":
  """The model of `--model` in each form of `--weights`, by its name; one without a name where there is no such flag."""
  _prepare(args)
  found = {}
  for name in args.weights.split(",") if args.weights else [""]:
    with status(f"loading {args.model or 'the embedded model'} {name}"):
      found[name] = lynx_jax.load(args.model, **({"dtype": args.dtype} | form_named(name)))
  return found


def form_named(name: str) -> dict[str, str]:
  """What `load` takes for a form of weights, from its name: int8, int4, float, or a dtype; nothing for no name."""
  if name in _DTYPES:
    return {"dtype": _DTYPES[name]}
  return {"weights": name} if name else {}


def _prepare(args: argparse.Namespace) -> None:
  from checkpoints_convert.abandoned_reads import silence_abandoned_reads

  silence_abandoned_reads()
  # Benchmarks load with flags of their own, and measure what compiling costs.
  if not getattr(args, "no_compilation_cache", True):
    keep_programs()
  announce_programs(not getattr(args, "quiet", True))


def batches(text: str) -> list[int]:
  """Numbers of rows from text such as `1,4,8`."""
  try:
    found = [int(part) for part in text.split(",")]
  except ValueError:
    found = []
  if not found or min(found) < 1:
    raise ValueError(f"--batch is {text!r}: expected whole numbers of at least 1, with commas, such as 1,4,8")
  return found


def check_output(args: argparse.Namespace) -> None:
  """Finds out before the work whether its results can be written."""
  if args.json:
    from checkpoints_convert.files import check_writable

    check_writable(Path(args.json))
