"""The page at `/`: a chat, and who reads which expert. Static files, and the events that they show.

Everything comes from this package: the content policy lets the page load nothing from elsewhere and run no inline code.
"""

import hashlib
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

from fastapi import APIRouter, Request
from starlette.responses import Response

from lynx_jax.routing import as_policy, format_policy
from lynx_jax.serve.errors import ERRORS
from lynx_jax.serve.served import Served
from lynx_jax.serve.sse import EventStream
from lynx_jax.serve.steps_feed import step_events
from lynx_jax.serve.wire import About, encode

_TYPES: Mapping[str, str] = MappingProxyType({
  "html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
  "svg": "image/svg+xml",
})  # fmt: skip
_HEADERS: Mapping[str, str] = MappingProxyType({
  "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
  "frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  # The browser asks each time whether its copy is still right: a new version of the package may be another page.
  "cache-control": "no-cache",
})  # fmt: skip
HOME = "index.html"


def page_files() -> dict[str, bytes]:
  """The page's files by name."""
  folder = resources.files("lynx_jax.serve") / "web"
  return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in _TYPES}


def page_paths() -> frozenset[str]:
  """The paths of the page's files, which need no key: they are the same for everybody."""
  return frozenset({"/", *(f"/{name}" for name in page_files())})


def page_routes(served: Served) -> APIRouter:
  """The routes of the page."""
  router = APIRouter(include_in_schema=False)
  for name, data in page_files().items():
    for path in ("/", f"/{name}") if name == HOME else (f"/{name}",):
      router.add_api_route(path, _file(name, data), methods=["GET", "HEAD"])

  @router.get("/v1/lynx/about")
  async def about() -> Response:
    """What is served, and how."""
    core, settings = served.engine.core, served.settings
    policy = "topk" if core.settings.policy is None else format_policy(as_policy(core.settings.policy))
    made = About(settings.model, policy, settings.quality, core.settings.slots, served.room)
    return Response(encode(made), media_type="application/json")

  @router.get("/v1/lynx/steps", responses=ERRORS)
  async def steps() -> Response:
    """What the steps do, as events, until the client leaves or the server drains."""
    return EventStream(step_events(served), {}, served.settings.reader_seconds)

  return router


def _file(name: str, data: bytes):
  tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
  kind = _TYPES[name.rpartition(".")[2]]

  async def answer(request: Request) -> Response:
    """One file of the page."""
    headers = {**_HEADERS, "etag": tag}
    if request.headers.get("if-none-match") == tag:
      return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=kind)

  return answer
