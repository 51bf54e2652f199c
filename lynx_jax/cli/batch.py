"""`batch`: answers a file of requests."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lynx_jax.cli.options import add_model, load, status
from lynx_jax.cli.serve import add_engine, engine_settings

if TYPE_CHECKING:
  from lynx_jax.engine.paged.step_shape import StepShape

_ABOUT = """\
Answers requests from a file in OpenAI's batch form, one a line: {"custom_id": "1", "method": "POST", "url":
"/v1/chat/completions", "body": {...}}. Bodies have the fields that `lynx-jax serve` takes. Answers are added to the
output as they end. A run that was interrupted goes on where it was: give the same files again.
"""


def add_commands(verbs: Any) -> None:
  """Adds the command to the parser's verbs."""
  batch = verbs.add_parser("batch", help="answer a file of requests", description=_ABOUT)
  batch.add_argument("input", metavar="INPUT", help="a .jsonl file of requests")
  batch.add_argument("output", metavar="OUTPUT", help="a .jsonl file of answers; one that is there is continued")
  batch.add_argument("--restart", action="store_true", help="replace an output that is there")
  add_model(batch)
  batch.add_argument("--model-name", metavar="NAME", help="what requests call the model; any name by default")
  add_engine(batch.add_argument_group("the engine"))
  batch.add_argument("--quiet", action="store_true", help="print nothing on standard error but errors")
  batch.set_defaults(run=_batch, no_page=True)


def _batch(args: argparse.Namespace) -> None:
  import asyncio

  try:
    from lynx_jax.serve.batch_file import answered_before, read_batch, run_batch
    from lynx_jax.serve.served import Served
    from lynx_jax.serve.settings import ServerSettings
  except ImportError as error:
    raise ImportError(f"{error.name} is not installed: pip install 'lynx-jax[serve]'") from error
  from lynx_jax.engine.engine import Engine

  output = Path(args.output)
  # Before the weights are read: a file that cannot be used is said at once.
  lines = read_batch(Path(args.input))
  names = {name for line in lines if isinstance(name := line.body.get("model"), str)}
  if args.restart:
    output.unlink(missing_ok=True)
  answered_before(output)
  # The engine's queue holds what is under way, and no more.
  settings = dataclasses.replace(
    engine_settings(args), most_waiting=None, most_waiting_tokens=None, prefix_first=not args.deterministic
  )  # fmt: skip
  model = args.model_name or (names.pop() if len(names) == 1 else "batch")
  params = load(args)
  with status("compiling") as say, Engine(params, settings) as engine:

    def compiling(shape: "StepShape", done: int, total: int) -> None:
      say(f"program {done} of {total}: {shape.name}")

    served = Served(engine, ServerSettings(model=model, page=False))
    counts = asyncio.run(run_batch(
      served, lines, output, at_once=2 * args.slots, compiling=compiling,
      progress=lambda done, total: say(f"{done} of {total} answers"),
    ))  # fmt: skip
    served.wait()
  if not args.quiet:
    earlier = f", {counts.earlier} were there before" if counts.earlier else ""
    tokens = f"{counts.prompt_tokens} tokens of prompts, {counts.output_tokens} new"
    print(f"{counts.answered} answered, {counts.failed} failed{earlier}; {tokens}", file=sys.stderr)
