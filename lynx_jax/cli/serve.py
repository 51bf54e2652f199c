"""`serve`: an OpenAI endpoint for a model."""

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lynx_jax
from lynx_jax.cli.options import add_weights, load

if TYPE_CHECKING:
  from lynx_jax.engine.paged.step_shape import StepShape
  from lynx_jax.engine.settings import EngineSettings
  from lynx_jax.serve.settings import ServerSettings

_ABOUT = """\
Serves a model to OpenAI's clients: /v1/chat/completions, /v1/completions, /v1/models, /tokenize, /detokenize, and
/health, /ready, /metrics, /version for monitors. A browser finds a chat at /, and a map of the experts that are read.
Requests are taken once /ready answers 200. Ctrl-C or SIGTERM drains:
requests that were taken go on, new ones are refused; a second signal ends it at once.
"""
_KEY = "LYNX_JAX_API_KEY"


def add_commands(verbs: Any) -> None:
  """Adds the command to the parser's verbs."""
  serve = verbs.add_parser("serve", help="serve a model to OpenAI's clients", description=_ABOUT)
  serve.add_argument(
    "path", nargs="?", metavar="PATH", help="directory, .gguf file, or hub name; the embedded model by default"
  )
  serve.add_argument("--dtype", help="bfloat16, float16 or float32; the checkpoint's by default")
  add_weights(serve)
  _add_server(serve.add_argument_group("the server"))
  add_engine(serve.add_argument_group("the engine"))
  serve.add_argument("--quiet", action="store_true", help="print nothing on standard error but errors")
  serve.set_defaults(run=_serve, no_compilation_cache=False)


def _add_server(group: Any) -> None:
  group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
  group.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
  group.add_argument("--model-name", metavar="NAME", help="what requests call the model; the directory's by default")
  group.add_argument(
    "--api-keys", metavar="FILE", help=f"clients must send one of its lines; or ${_KEY}, one key (default: none)"
  )
  group.add_argument("--allow-origin", action="append", default=[], metavar="URL", help="pages that may call (CORS)")
  group.add_argument("--strict", action="store_true", help="refuse unknown fields; they are ignored otherwise")
  group.add_argument(
    "--quality", default="standard", help="of requests that do not say: exact, high, standard, economy"
  )
  group.add_argument(
    "--tool-format", metavar="NAME", help="how the model calls tools, such as hermes; by its chat template; none"
  )
  group.add_argument(
    "--reasoning-format", metavar="NAME", help="how it marks reasoning, such as think; by its chat template; none"
  )
  group.add_argument("--max-body", type=int, default=8, metavar="MB", help="of a request (default: %(default)s)")
  group.add_argument(
    "--key-limit", type=int, metavar="N", help="requests that may be under way with one key (default: no limit)"
  )
  group.add_argument(
    "--wait-timeout", type=float, metavar="S", help="for a request's first token, then 408 (default: no limit)"
  )
  group.add_argument(
    "--drain-timeout", type=float, default=30.0, metavar="S", help="for requests that run at the end (default: 30)"
  )
  group.add_argument("--no-page", action="store_true", help="no page at /, and no count of who reads which expert")
  group.add_argument("--access-log", action="store_true", help="a line for each request on standard error")


def add_engine(group: Any) -> None:
  """Adds the flags of an engine that serves."""
  group.add_argument("--policy", default="topk", help="topk (the model's own routing), auto, lynx:alpha=3,beta=2, ...")
  group.add_argument("--slots", type=int, default=16, metavar="N", help="requests that run at once (default: 16)")
  group.add_argument("--context", type=int, metavar="N", help="tokens of a request; the model's, at most 4096")
  group.add_argument("--kv-memory", type=float, metavar="GB", help="for the cache (default: what all slots can fill)")
  group.add_argument("--step-ms", type=float, metavar="MS", help="how long a decode step should take, under a policy")
  group.add_argument("--max-waiting", type=int, default=256, metavar="N", help="requests that may wait (default: 256)")
  group.add_argument("--max-waiting-tokens", type=int, metavar="N", help="tokens of prompts that may wait")
  group.add_argument("--stats", action="store_true", help="count what the model's own routing would read; takes time")
  group.add_argument("--routing", action="store_true", help="let requests ask for the experts of their tokens")
  group.add_argument("--deterministic", action="store_true", help="exact requests get the same bits whatever else runs")


def _serve(args: argparse.Namespace) -> None:
  try:
    from lynx_jax.serve.served import Served
    from lynx_jax.serve.server import Server, is_public, listen, url_of
  except ImportError as error:
    raise ImportError(f"{error.name} is not installed: pip install 'lynx-jax[serve]'") from error
  from lynx_jax.engine.engine import Engine

  settings, sizes = _server_settings(args), engine_settings(args)
  # Before the weights are read: an address that cannot be had is said at once.
  with listen(args.host, args.port, settings.reader_seconds) as listener:
    url = url_of(listener)
    if is_public(listener) and not settings.keys:
      print(f"{url} can be reached from other machines, and no API key is asked for (--api-keys)", file=sys.stderr)
    args.model = args.path
    params = load(args)

    def progress(shape: "StepShape", done: int, total: int) -> None:
      if not args.quiet:
        page = f", and a page at {url}" if settings.page else ""
        ready = f"; {settings.model} is served at {url}/v1{page}" if done == min(2, total) else ""
        print(f"program {done} of {total}: {shape.name}{ready}", file=sys.stderr, flush=True)

    with Engine(params, sizes) as engine:
      served = Served(engine, settings)
      server = Server(served, listener, progress, access_log=args.access_log)
      server.serve_forever()
      if server.force_exit:
        # At once: threads that compile or decode are not waited for.
        sys.stderr.flush()
        os._exit(1)
      served.wait()
      if server.failed:
        sys.exit(1)


def _server_settings(args: argparse.Namespace) -> "ServerSettings":
  from lynx_jax.serve.settings import ServerSettings

  name = args.model_name or (Path(args.path).resolve().name if args.path else "lynx-embedded")
  return ServerSettings(
    model=name,
    keys=_keys(args.api_keys),
    origins=tuple(args.allow_origin),
    strict=args.strict,
    quality=args.quality,
    tool_format=args.tool_format,
    reasoning_format=args.reasoning_format,
    most_choices=min(128, args.max_waiting),
    most_body_bytes=args.max_body * 2**20,
    most_per_key=args.key_limit,
    wait_seconds=args.wait_timeout,
    drain_seconds=args.drain_timeout,
    page=not args.no_page,
  )


def engine_settings(args: argparse.Namespace) -> "EngineSettings":
  """The engine that the flags describe."""
  from lynx_jax.engine.settings import EngineSettings

  policy = None if args.policy == "topk" else lynx_jax.parse_policy(args.policy)
  settings = EngineSettings(
    slots=args.slots,
    context=args.context,
    kv_bytes=None if args.kv_memory is None else round(args.kv_memory * 1e9),
    policy=policy,
    step_ms=args.step_ms,
    most_waiting=args.max_waiting,
    most_waiting_tokens=args.max_waiting_tokens,
    stats=args.stats,
    routing=args.routing,
    readers=not args.no_page,
  )
  return dataclasses.replace(settings, deterministic=True, mixed=(128,)) if args.deterministic else settings


def _keys(file: str | None) -> frozenset[str]:
  """The keys of a file, and of the environment."""
  lines = [] if file is None else Path(file).read_text(encoding="utf-8").splitlines()
  return frozenset(key for line in [*lines, os.environ.get(_KEY, "")] if (key := line.strip()))
