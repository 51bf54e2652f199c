"""The ASGI application over an engine."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

import lynx_jax
from lynx_jax.serve.chat import chat_routes
from lynx_jax.serve.completions import completion_routes
from lynx_jax.serve.errors import answer_fault, answer_http_error, validation_error
from lynx_jax.serve.guards import Guards
from lynx_jax.serve.page import page_routes
from lynx_jax.serve.probes import probe_routes
from lynx_jax.serve.served import Progress, Served
from lynx_jax.serve.settings import ServerSettings
from lynx_jax.serve.tokens import token_routes


def create_app(served: Served, progress: Progress = lambda shape, done, total: None) -> FastAPI:
  """The application. Its start compiles the engine's programs; `progress` hears of each.

  The engine stays the caller's, to be closed by it after the application has ended.
  """

  @contextlib.asynccontextmanager
  async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    served.start(progress)
    try:
      yield
    finally:
      served.close()

  app = FastAPI(
    title="lynx_jax",
    version=lynx_jax.__version__,
    lifespan=lifespan,
    # Their pages load scripts from elsewhere.
    docs_url=None,
    redoc_url=None,
    middleware=_middleware(served.settings),
    exception_handlers={
      RequestValidationError: _answer_invalid,
      HTTPException: answer_http_error,
      Exception: answer_fault,
    },
  )
  page = (page_routes,) if served.settings.page else ()
  for routes in (chat_routes, completion_routes, token_routes, probe_routes, *page):
    app.include_router(routes(served))
  _leave_out_422(app)
  return app


def _middleware(settings: ServerSettings) -> list[Middleware]:
  cors = Middleware(
    CORSMiddleware, allow_origins=settings.origins, allow_methods=["GET", "POST"], allow_headers=["*"]
  )  # fmt: skip
  return [*([cors] if settings.origins else []), Middleware(Guards, settings=settings)]


async def _answer_invalid(request: Request, error: Exception) -> Response:
  assert isinstance(error, RequestValidationError)
  return validation_error(error.errors()).response


def _leave_out_422(app: FastAPI) -> None:
  """Takes the framework's own form of errors from the OpenAPI file: nobody gets it."""
  made = app.openapi

  def openapi() -> dict[str, Any]:
    schema = made()
    for path in schema["paths"].values():
      for operation in path.values():
        operation["responses"].pop("422", None)
    return schema

  app.openapi = openapi
