"""Errors in the form that OpenAI's clients read."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from lynx_jax.engine.core import EngineDead
from lynx_jax.engine.host.request import Overloaded
from pallas_kernels.checks import refusal

CLIENT_GONE = 499
"""Status of a request whose client has left; nobody reads it, but logs and metrics do."""


ERRORS: dict[int | str, dict[str, Any]] = {
  "4XX": {"description": "The request cannot be served", "content": {"application/json": {"schema": {
    "type": "object", "required": ["error"], "properties": {"error": {
      "type": "object", "required": ["message", "type", "param", "code"], "properties": {
        "message": {"type": "string"},
        "type": {"type": "string"},
        "param": {"type": ["string", "null"]},
        "code": {"type": ["string", "null"]},
  }}}}}}},
  "503": {"description": "The server is overloaded, warms up or drains; Retry-After says when to come back"},
}  # fmt: skip
"""The errors of an endpoint, for the OpenAPI file."""


class ApiError(HTTPException):
  """An answer that says what is wrong: status, message, and the field that it is about."""

  def __init__(
    self,
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    retry_after: float | None = None,
  ):
    """`kind` is the error's `type`; `retry_after` are seconds until another try may succeed."""
    headers = {} if retry_after is None else {"Retry-After": str(math.ceil(retry_after))}
    if status == 401:
      headers["WWW-Authenticate"] = "Bearer"
    super().__init__(status, message, headers)
    self.error: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}

  @property
  def body(self) -> bytes:
    """The error as JSON. ASCII, so that no text of a client can fail to be encoded."""
    return json.dumps({"error": self.error}).encode()

  @property
  def response(self) -> Response:
    """The whole answer."""
    return Response(self.body, self.status_code, self.headers, "application/json")


def refused(param: str, value: object, expected: str, remedy: str | None = None, code: str | None = None) -> ApiError:
  """The error of a field that cannot be served."""
  return ApiError(400, str(refusal(param, value, expected, remedy)), param=param, code=code)


def engine_error(error: Exception, retry_after: float) -> ApiError:
  """What a client is told of an error that the engine raised at `submit`, or later."""
  if isinstance(error, Overloaded):
    return overloaded(str(error), retry_after)
  if isinstance(error, EngineDead):
    return ApiError(500, str(error), kind="server_error", code="engine_dead")
  if isinstance(error, ValueError):
    return ApiError(400, str(error))
  return ApiError(500, f"the server has failed: {type(error).__name__}", kind="server_error")


def overloaded(message: str, retry_after: float) -> ApiError:
  """The error of a request that may succeed later."""
  return ApiError(503, message, kind="overloaded_error", code="overloaded", retry_after=retry_after)


def validation_error(findings: Sequence[dict[str, Any]]) -> ApiError:
  """What is wrong with a body, from pydantic's findings: the deepest one about the first field that is wrong."""
  field = findings[0]["loc"][:2]
  found = max((one for one in findings if one["loc"][:2] == field), key=lambda one: len(one["loc"]))
  kind = found["type"]
  # Where there are several types, pydantic names the type that it tried, such as `str` or `list[Part]`.
  place = [str(part) for part in found["loc"] if part not in ("body", "str") and not re.search(r"[\[-]", str(part))]
  if kind == "json_invalid":
    return ApiError(400, f"the body is not JSON: {found.get('ctx', {}).get('error', 'it cannot be read')}")
  if not place:
    return ApiError(400, "the body is no JSON object: send one, as application/json")
  param = ".".join(place)
  if kind == "missing":
    return ApiError(400, f"{param} is missing: it is needed", param=param)
  message = found["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
  return refused(param, found["input"], message)


async def answer_http_error(request: Request, error: Exception) -> Response:
  """The answer to an error that the framework raised, such as an unknown path."""
  assert isinstance(error, HTTPException)
  if isinstance(error, ApiError):
    return error.response
  method, path = request.method, request.url.path
  messages = {
    404: f"there is nothing at {path}: the API is under /v1",
    405: f"{path} does not take {method}",
    400: "the body cannot be read: send JSON, as application/json",
  }
  status = error.status_code
  made = ApiError(status, messages.get(status, str(error.detail)), code=None if status != 404 else "not_found")
  return Response(made.body, status, error.headers, "application/json")


async def answer_fault(request: Request, error: Exception) -> Response:
  """The answer to what nobody has foreseen; the traceback goes to the log."""
  return engine_error(RuntimeError(type(error).__name__), 1.0).response
