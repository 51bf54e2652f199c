"""`bench serve`: a load for any OpenAI server."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lynx_jax.cli.options import check_output, status

if TYPE_CHECKING:
  from lynx_jax.bench.serve.asked import Asked

_ABOUT = """\
Sends a load to an OpenAI server (lynx-jax serve, vLLM, llama-server, ...) and reports what its clients see: tokens a
second, the time to the first token (TTFT), between chunks (ITL), per token (TPOT) and to the end (E2E), and with --slo
the requests that keep all objectives (goodput). Prompts are random token ids, unless --prompts gives a file.
"""
_KEYS = ("LYNX_JAX_API_KEY", "OPENAI_API_KEY")


def add_bench_serve(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `bench serve` to its parser."""
  parser.description = _ABOUT
  parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server (default: %(default)s)")
  parser.add_argument("--model", metavar="NAME", help="what requests ask for; the server's first by default")
  parser.add_argument("--api-key", metavar="KEY", help=f"of the server; ${' or $'.join(_KEYS)} by default")
  load = parser.add_argument_group("the load")
  load.add_argument("--requests", type=int, metavar="N", help="how many (default: 200, or the lines of a file)")
  lengths = "a length, or a range such as 16:512, whose lengths are equally likely (default: %(default)s)"
  load.add_argument("--prompt-length", default="16:512", metavar="A:B", help=f"tokens of a prompt: {lengths}")
  load.add_argument("--output-length", default="16:256", metavar="A:B", help=f"new tokens: {lengths}")
  load.add_argument("--lengths", metavar="FILE", help="lengths from a file in place of ranges: PROMPT OUTPUT a line")
  load.add_argument(
    "--prompts", metavar="FILE",
    help="a JSON object a line with prompt or messages, and other fields of a request; OpenAI's batch form too",
  )  # fmt: skip
  load.add_argument(
    "--token-ids", default="256:4095", metavar="A:B", help="ids that random prompts are made of (default: %(default)s)"
  )
  load.add_argument(
    "--arrivals", default="all",
    metavar="HOW", help="all (at once), poisson:rate=4 (a second) or bursts:size=16,every=2 (seconds) (default: all)",
  )  # fmt: skip
  load.add_argument(
    "--clients", metavar="N,N", help="requests under way at most; several numbers are several loads (default: no bound)"
  )
  load.add_argument("--extra-body", metavar="JSON", help='fields of all requests, such as {"quality": "economy"}')
  load.add_argument("--seed", type=int, default=0)
  parser.add_argument("--warm-up", type=int, default=4, metavar="N", help="requests before, not counted (default: 4)")
  parser.add_argument("--slo", metavar="TIMES", help="objectives in ms, such as ttft=500,tpot=50 (also itl, e2e)")
  parser.add_argument("--json", metavar="FILE", help="write the results as one object")
  parser.set_defaults(run=_bench_serve)


def _bench_serve(args: argparse.Namespace) -> None:
  import asyncio

  from rich.console import Console

  try:
    from lynx_jax.bench.serve.client import send_load
  except ImportError as error:
    raise ImportError(f"{error.name} is not installed: pip install 'lynx-jax[serve]'") from error
  from lynx_jax.bench.serve.figures import parse_objectives, serve_figures
  from lynx_jax.bench.serve.table import serve_table

  check_output(args)
  objectives = {} if args.slo is None else parse_objectives(args.slo)
  clients = _clients(args.clients)
  bodies = _bodies(args)
  key = args.api_key or next((os.environ[name] for name in _KEYS if os.environ.get(name)), None)
  shared = {"model": args.model or _first_model(args.url, key), **_extra(args.extra_body)}
  asked = _timed(args, bodies, shared)
  rows = []
  with status("warming up") as progress:
    warm_up = [_at_start(one) for one in asked[: args.warm_up]]
    asyncio.run(send_load(args.url, warm_up, key=key, at_once=1))
    for at_once in clients:
      name = args.arrivals if at_once is None else f"{args.arrivals}, {at_once} clients"

      def note(done: int, name: str = name) -> None:
        progress(f"{name}: {done} of {len(asked)} answers")

      observed = asyncio.run(send_load(args.url, asked, key=key, at_once=at_once, progress=note))
      rows.append((name, serve_figures(observed, objectives)))
  Console(width=None if sys.stdout.isatty() else 160).print(serve_table(rows))
  for name, found in rows:
    for error, count in found.failed.items():
      print(f"{name}: {count} failed: {error}")
  if args.json:
    _write(args, shared, rows)
  if any(sum(found.failed.values()) == found.requests for _, found in rows):
    raise ValueError(f"no request got an answer: {next(iter(rows[0][1].failed), '')}")


def _bodies(args: argparse.Namespace) -> list[dict[str, Any]]:
  """The requests that the flags describe, without what all share."""
  import itertools

  import numpy as np

  from lynx_jax.bench.engine.load import parse_lengths
  from lynx_jax.bench.serve.asked import random_bodies, random_lengths, read_lengths, read_prompts
  from pallas_kernels.checks import whole_number

  whole_number("--seed", args.seed, least=0, most=2**32 - 1)
  whole_number("--warm-up", args.warm_up, least=0)
  if args.requests is not None:
    whole_number("--requests", args.requests, least=1)
  prompt = parse_lengths("--prompt-length", args.prompt_length)
  output = parse_lengths("--output-length", args.output_length)
  ids = parse_lengths("--token-ids", args.token_ids)
  for flag, (least, most) in (("--prompt-length", prompt), ("--output-length", output), ("--token-ids", ids)):
    whole_number(flag, least, least=0 if flag == "--token-ids" else 1, most=most)
  random = np.random.default_rng(args.seed)
  if args.prompts is not None:
    found = read_prompts(Path(args.prompts), output[1])
    return list(itertools.islice(itertools.cycle(found), args.requests or len(found)))
  if args.lengths is not None:
    lengths = read_lengths(Path(args.lengths))
    lengths = list(itertools.islice(itertools.cycle(lengths), args.requests or len(lengths)))
  else:
    lengths = random_lengths(args.requests or 200, prompt, output, random)
  return random_bodies(lengths, ids, random)


def _timed(args: argparse.Namespace, bodies: list[dict[str, Any]], shared: dict[str, Any]) -> "list[Asked]":
  import numpy as np

  from lynx_jax.bench.arrivals import parse_arrivals
  from lynx_jax.bench.serve.asked import timed

  return timed(bodies, parse_arrivals(args.arrivals), np.random.default_rng(args.seed), shared)


def _at_start(one: "Asked") -> "Asked":
  import dataclasses

  return dataclasses.replace(one, at=0.0)


def _clients(text: str | None) -> list[int | None]:
  from pallas_kernels.checks import refusal, whole_number

  if text is None:
    return [None]
  try:
    return [whole_number("--clients", int(part), least=1) for part in text.split(",")]
  except ValueError:
    raise refusal("--clients", text, "whole numbers of at least 1 with commas, such as 1,8,16") from None


def _extra(text: str | None) -> dict[str, Any]:
  from pallas_kernels.checks import refusal

  try:
    found = json.loads(text or "{}")
  except ValueError:
    found = None
  if not isinstance(found, dict):
    raise refusal("--extra-body", text, 'a JSON object, such as {"quality": "economy"}')
  return found


def _first_model(url: str, key: str | None) -> str:
  """The name of the server's first model. Raises OSError where there is no server."""
  import httpx

  base = url.rstrip("/").removesuffix("/v1")
  headers = {} if key is None else {"authorization": f"Bearer {key}"}
  try:
    answer = httpx.get(f"{base}/v1/models", headers=headers, timeout=10)
    answer.raise_for_status()
    return answer.json()["data"][0]["id"]
  except httpx.HTTPStatusError as error:
    raise OSError(f"{base} answers {error.response.status_code}: give its --api-key, or another --url") from error
  except (httpx.HTTPError, httpx.InvalidURL) as error:
    raise OSError(f"no server at {base} ({error}): start one, such as lynx-jax serve, or give its --url") from error
  except (ValueError, LookupError, TypeError):
    raise OSError(f"{base}/v1/models names no model: give --model") from None


def _write(args: argparse.Namespace, shared: dict[str, Any], rows: list[Any]) -> None:
  import dataclasses

  from checkpoints_convert.files import write_json

  write_json(Path(args.json), {
    "url": args.url, "shared": shared, "arrivals": args.arrivals, "seed": args.seed, "slo": args.slo,
    "loads": [{"load": name} | dataclasses.asdict(found) for name, found in rows],
  })  # fmt: skip
