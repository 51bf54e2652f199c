"""`bench engine`: the engine under a load, beside fixed batches and the decode loop."""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lynx_jax
from lynx_jax.cli.options import add_model, check_output, load, status

if TYPE_CHECKING:
  from lynx_jax.bench.engine.load import Load
  from lynx_jax.engine.settings import EngineSettings
  from lynx_jax.models.params import Params
  from lynx_jax.routing import RoutingPolicy

_ABOUT = """\
Serves a load of random requests with the engine and reports tokens a second, the time to the first token (TTFT) and
between tokens (ITL), the cache's waste, host time a step, experts read, and programs compiled on the way (there should
be none). With --static the same requests also run in fixed batches, by prefill and decode_loop: in the order of their
arrival, each batch padded to its longest prompt and run to its longest output. Their programs are compiled before, and
are few: prompts are padded to multiples of 16, and the cache has room for the longest request of the load.
"""


def add_bench_engine(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `bench engine` to its parser."""
  parser.description = _ABOUT
  add_model(parser)
  asked = parser.add_argument_group("the load")
  asked.add_argument("--requests", type=int, default=200, metavar="N", help="0 serves no load (default: %(default)s)")
  lengths = "a length, or a range such as 16:512, whose lengths are equally likely (default: %(default)s)"
  asked.add_argument("--prompt-length", default="16:512", metavar="A:B", help=f"tokens of a prompt: {lengths}")
  asked.add_argument("--output-length", default="16:256", metavar="A:B", help=f"new tokens: {lengths}")
  asked.add_argument(
    "--arrivals", default="all", metavar="HOW",
    help="all (at once), poisson:rate=4 (requests a second) or bursts:size=16,every=2 (seconds) (default: all)",
  )  # fmt: skip
  asked.add_argument("--seed", type=int, default=0)
  parser.add_argument("--policy", action="append", help="may be repeated (default: topk, the model's own routing)")
  parser.add_argument("--slots", type=int, default=16, metavar="N", help="rows that decode at once (default: 16)")
  sizes = "sizes of steps that read prompts, in tokens (default: 128,512, and 2048 on a GPU)"
  parser.add_argument("--mixed", metavar="N,N", help=sizes)
  parser.add_argument("--step-ms", type=float, metavar="MS", help="how long the engine should let a decode step take")
  parser.add_argument("--stats", action="store_true", help="count the model's own experts too (steps are slower)")
  parser.add_argument("--repeats", type=int, default=1, metavar="N", help="turns of the load (default: 1)")
  others = parser.add_argument_group("beside the load")
  others.add_argument(
    "--static", type=int, nargs="?", const=16, metavar="ROWS", help="fixed batches, of 16 if not said"
  )
  others.add_argument(
    "--same-memory", action="store_true",
    help="give the engine's cache the memory of a fixed batch's cache, for however many --slots",
  )  # fmt: skip
  others.add_argument(
    "--steady", action="store_true", help="steady decode of --slots rows beside decode_loop, in turns"
  )
  others.add_argument(
    "--arriving", type=int, nargs="?", const=512, metavar="N",
    help="ITL of decoding rows while prompts of N tokens arrive (512 if not said)",
  )  # fmt: skip
  others.add_argument(
    "--prefix", type=int, nargs="?", const=512, metavar="N",
    help="TTFT of a prompt of N tokens (512 if not said) of which 7/8 are cached, over a cold one",
  )  # fmt: skip
  others.add_argument(
    "--programs", action="store_true",
    help="time to have the programs from the disk, over compiling (implies --no-compilation-cache)",
  )  # fmt: skip
  parser.add_argument("--json", metavar="FILE", help="write the results as one object")
  parser.set_defaults(run=_bench_engine)


def _bench_engine(args: argparse.Namespace) -> None:
  from rich.console import Console

  from lynx_jax.bench.engine.bench import own_or_none
  from lynx_jax.bench.engine.table import load_table, steps_table, summary_lines

  check_output(args)
  asked, settings = _load_of(args), _settings_of(args)
  policies = [lynx_jax.parse_policy(text) for text in args.policy or ["topk"]]
  args.no_compilation_cache |= args.programs
  params = load(args)
  settings = _with_room(settings, args, asked, params)
  with status("measuring") as progress:
    measured = _Measured(args, params, settings, progress)
    rows = measured.load(asked, policies)
    steady = [(policy, measured.steady(own_or_none(policy))) for policy in policies if args.steady]
    first = dataclasses.replace(settings, policy=own_or_none(policies[0]))
    arriving, prefix, programs = measured.arriving(first), measured.prefix(first), measured.programs(first)
  console = Console(width=None if sys.stdout.isatty() else 160)
  for table in (load_table(rows), steps_table(rows)) if rows else ():
    console.print(table)
  named = [(lynx_jax.format_policy(policy), found) for policy, found in steady]
  for line in summary_lines(named, arriving, prefix, programs):
    print(line)
  if args.json:
    from checkpoints_convert.files import write_json

    plain = dataclasses.asdict
    write_json(Path(args.json), {
      "load": None if asked is None else {**plain(asked), "arrivals": args.arrivals},
      "engine": {
        "slots": settings.slots, "mixed": settings.step_programs.mixed, "step_ms": settings.step_ms,
        "run_ahead": settings.steps_ahead, "stats": settings.stats,
      },
      "rows": [plain(row) for row in rows],
      "steady": [{"policy": policy} | plain(found) for policy, found in named],
      "arriving": [plain(found) for found in arriving],
      "prefix": None if prefix is None else plain(prefix),
      "programs": None if programs is None else plain(programs),
    })  # fmt: skip


def _load_of(args: argparse.Namespace) -> "Load | None":
  """The load that the flags describe; None if there is none."""
  from lynx_jax.bench.arrivals import parse_arrivals
  from lynx_jax.bench.engine.load import Load, parse_lengths
  from pallas_kernels.checks import whole_number

  whole_number("--requests", args.requests, least=0)
  whole_number("--seed", args.seed, least=0, most=2**32 - 1)
  whole_number("--repeats", args.repeats, least=1)
  for flag in ("static", "arriving", "prefix"):
    if getattr(args, flag) is not None:
      whole_number(f"--{flag}", getattr(args, flag), least=1)
  prompt = parse_lengths("--prompt-length", args.prompt_length)
  output = parse_lengths("--output-length", args.output_length)
  arrivals = parse_arrivals(args.arrivals)
  if not args.requests:
    return None
  return Load(requests=args.requests, prompt=prompt, output=output, arrivals=arrivals, seed=args.seed)


def _settings_of(args: argparse.Namespace) -> "EngineSettings":
  from lynx_jax.engine.settings import EngineSettings
  from pallas_kernels.checks import refusal

  try:
    mixed = None if args.mixed is None else tuple(int(size) for size in args.mixed.split(","))
  except ValueError:
    raise refusal("--mixed", args.mixed, "rising whole numbers with commas, such as 128,512") from None
  return EngineSettings(slots=args.slots, mixed=mixed, step_ms=args.step_ms, stats=args.stats)


def _with_room(
  settings: "EngineSettings", args: argparse.Namespace, asked: "Load | None", params: "Params"
) -> "EngineSettings":
  """The settings with one context for the load and the prompts beside it, so that all engines share their programs."""
  from lynx_jax.bench.engine.load import with_context

  served = 0 if asked is None else asked.prompt[1] + asked.output[1]
  prompts = [length + 1 for length in (args.prefix, args.arriving) if length is not None]
  return with_context(settings, max(served, *prompts, 1), params.spec)


class _Measured:
  """The measurements that the flags ask for."""

  def __init__(
    self, args: argparse.Namespace, params: "Params", settings: "EngineSettings", progress: Callable[[str], None]
  ):
    self._args, self._params, self._settings, self._progress = args, params, settings, progress

  def load(self, asked: "Load | None", policies: "list[RoutingPolicy]") -> list[Any]:
    """The load under every policy; nothing if there is none."""
    from lynx_jax.bench.engine.bench import bench_load

    if asked is None:
      return []
    found = bench_load(
      self._params, asked, policies, self._settings, static=self._args.static, same_memory=self._args.same_memory,
      repeats=self._args.repeats, progress=self._progress,
    )  # fmt: skip
    return list(found)

  def steady(self, policy: "RoutingPolicy | None") -> Any:
    """Steady decode under a policy."""
    from lynx_jax.bench.engine.steady_decode import steady_decode

    self._progress("steady decode")
    return steady_decode(self._params, dataclasses.replace(self._settings, policy=policy), seed=self._args.seed)

  def arriving(self, settings: "EngineSettings") -> list[Any]:
    """Prompts that arrive beside decoding rows."""
    from lynx_jax.bench.engine.arriving_prompts import arriving_prompts

    if self._args.arriving is None:
      return []
    self._progress("prompts arrive")
    return arriving_prompts(self._params, settings, prompt=self._args.arriving, seed=self._args.seed)

  def prefix(self, settings: "EngineSettings") -> Any:
    """What a cached prefix saves."""
    from lynx_jax.bench.engine.prefix_hit import prefix_hit

    if self._args.prefix is None:
      return None
    self._progress("a cached prefix")
    return prefix_hit(self._params, settings, prompt=self._args.prefix, seed=self._args.seed)

  def programs(self, settings: "EngineSettings") -> Any:
    """Programs from the disk, and compiled."""
    from lynx_jax.bench.engine.programs_ready import programs_ready

    if not self._args.programs:
      return None
    self._progress("programs")
    with tempfile.TemporaryDirectory() as directory:
      return programs_ready(self._params, settings, Path(directory))
