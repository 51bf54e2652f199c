"""What monitors ask: whether the process lives, whether it takes requests, what it has, and what it has done."""

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import JSONResponse, Response

import lynx_jax
from lynx_jax.serve.errors import ERRORS, engine_error
from lynx_jax.serve.served import Served
from lynx_jax.serve.wire import Model, Models, encode


def probe_routes(served: Served) -> APIRouter:
  """The routes of monitors, and the list of models."""
  router = APIRouter()

  @router.get("/health", responses=ERRORS)
  async def health() -> Response:
    """Whether the engine lives."""
    if served.engine.failure is not None:
      raise engine_error(served.engine.failure, served.retry_after)
    return JSONResponse({"status": "ok"})

  @router.get("/ready", responses=ERRORS)
  async def ready() -> Response:
    """Whether requests are taken now: not while the first programs are compiled, nor while the server drains."""
    served.check_open()
    return JSONResponse({"status": served.state, "programs": list(served.engine.core.programs_ready)})

  @router.get("/version")
  async def version() -> Response:
    """The version of lynx_jax."""
    return JSONResponse({"version": lynx_jax.__version__})

  @router.get("/metrics", response_class=Response)
  async def metrics() -> Response:
    """Metrics in Prometheus' form."""
    stats = await served.stats()
    families = list(served.metrics.families(stats, served.engine.core.programs_ready, served.compiled_late))
    registry = CollectorRegistry()
    registry.register(_Fixed(families))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

  @router.get("/v1/models")
  async def models() -> Response:
    """The one model that is served."""
    return Response(encode(Models([_model(served)])), media_type="application/json")

  @router.get("/v1/models/{model:path}", responses=ERRORS)
  async def model(model: str) -> Response:
    """What is known of a model."""
    served.check_model(model)
    return Response(encode(_model(served)), media_type="application/json")

  return router


class _Fixed(Collector):
  """Metrics that have been read."""

  def __init__(self, families: list):
    self._families = families

  def collect(self):
    """The metrics."""
    return self._families


def _model(served: Served) -> Model:
  return Model(served.settings.model, served.settings.started, served.room)
