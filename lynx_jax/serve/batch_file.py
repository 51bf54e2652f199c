"""Requests from a file in OpenAI's batch form, answered by the endpoints of the server, without a socket.

A line of the input is `{"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}`. A line of
the output is `{"id": ..., "custom_id": ..., "response": {"status_code", "request_id", "body"}, "error": null}`, in the
order in which answers end. A run that was interrupted goes on: what the output has is not asked again.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from lynx_jax.serve.app import create_app
from lynx_jax.serve.served import Progress, Served
from pallas_kernels.checks import refusal, require

ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
_POLL_SECONDS = 0.02


class BatchLine(NamedTuple):
  """One request of a file.

  Attributes:
    custom_id: the caller's name for it.
    url: the path of the endpoint.
    body: what a client would send.
  """

  custom_id: str
  url: str
  body: dict[str, Any]


class BatchCounts(NamedTuple):
  """How a run went.

  Attributes:
    earlier: requests that the output had already.
    answered: with 200.
    failed: with an error, which the output has.
    prompt_tokens, output_tokens: of those that were answered.
  """

  earlier: int
  answered: int
  failed: int
  prompt_tokens: int
  output_tokens: int


def read_batch(path: Path) -> list[BatchLine]:
  """The requests of a file; all of it is checked before any runs.

  Raises:
    OSError: the file cannot be read.
    ValueError: a line is no request; the message names it.
  """
  found: dict[str, BatchLine] = {}
  for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
    if not text.strip():
      continue
    where = f"{path} line {number}"
    line = _object(where, text)
    name, url = line.get("custom_id"), line.get("url")
    body: Any = line.get("body")
    require(isinstance(name, str) and bool(name), f"custom_id of {where}", name, "a string that is not empty")
    require(name not in found, f"custom_id of {where}", name, "a name that no line before has")
    require(line.get("method", "POST") == "POST", f"method of {where}", line.get("method"), "'POST'")
    require(url in ENDPOINTS, f"url of {where}", url, f"one of {', '.join(ENDPOINTS)}")
    require(isinstance(body, dict), f"body of {where}", body, "an object")
    require(not body.get("stream"), f"stream of {where}", body.get("stream"), "false: a file has whole answers")
    found[str(name)] = BatchLine(str(name), str(url), body)
  require(bool(found), str(path), "an empty file", "one request a line")
  return list(found.values())


def answered_before(path: Path) -> set[str]:
  """The names of requests that an output has answers of. A last line that is cut off is taken from the file.

  Raises:
    ValueError: the file is no output of a batch.
  """
  if not path.exists():
    return set()
  data = path.read_bytes()
  whole = data[: data.rfind(b"\n") + 1]
  names = {_object(f"{path} line {number}", text).get("custom_id") for number, text in
           enumerate(whole.decode(errors="replace").splitlines(), start=1)}  # fmt: skip
  remedy = "give another file, or let it be replaced"
  require(all(isinstance(name, str) for name in names), str(path), "a file", "the output of a batch", remedy)
  if len(whole) < len(data):
    with path.open("r+b") as file:
      file.truncate(len(whole))
  return {str(name) for name in names}


async def run_batch(
  served: Served,
  lines: Sequence[BatchLine],
  output: Path,
  *,
  at_once: int,
  compiling: Progress = lambda shape, done, total: None,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> BatchCounts:
  """Answers all lines that `output` does not have yet, and adds each answer to it as soon as it is there.

  Args:
    served: an engine, which stays the caller's; its queue must have room for `at_once` requests.
    lines: the requests.
    output: a file; it is made if there is none.
    at_once: requests that are under way.
    compiling: hears of each program that is compiled.
    progress: called with the answers so far, and how many there will be.

  Raises:
    ValueError: `output` is another file.
    OSError: it cannot be written.
    RuntimeError: the engine has failed.
  """
  earlier = answered_before(output)
  asked = [line for line in lines if line.custom_id not in earlier]
  answered = failed = prompt_tokens = output_tokens = 0
  transport = httpx.ASGITransport(app=create_app(served))
  with output.open("a", encoding="utf-8") as file:
    async with httpx.AsyncClient(transport=transport, base_url="http://batch", timeout=None) as client:
      await _start(served, compiling)
      try:
        async for line, answer in _answers(client, asked, at_once):
          body = answer.json()
          file.write(_output_line(line, answer, body))
          file.flush()
          if served.engine.failure is not None:
            raise RuntimeError(f"the engine has failed: {served.engine.failure}") from served.engine.failure
          if answer.status_code == httpx.codes.OK:
            answered += 1
            prompt_tokens += body["usage"]["prompt_tokens"]
            output_tokens += body["usage"]["completion_tokens"]
          else:
            failed += 1
          progress(answered + failed, len(asked))
      finally:
        served.close()
  return BatchCounts(len(lines) - len(asked), answered, failed, prompt_tokens, output_tokens)


async def _start(served: Served, compiling: Progress) -> None:
  """Waits until requests are taken."""
  served.start(compiling)
  while served.state == "warming" and served.engine.failure is None:
    await asyncio.sleep(_POLL_SECONDS)


async def _answers(
  client: httpx.AsyncClient, lines: Sequence[BatchLine], at_once: int
) -> AsyncIterator[tuple[BatchLine, httpx.Response]]:
  """Each line with its answer, as they end; leaving early ends those that are under way."""
  waiting = iter(lines)
  running: dict[asyncio.Task[httpx.Response], BatchLine] = {}

  def fill() -> None:
    while len(running) < at_once and (line := next(waiting, None)) is not None:
      running[asyncio.ensure_future(client.post(line.url, json=line.body))] = line

  fill()
  try:
    while running:
      ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
      for task in ended:
        line, answer = running.pop(task), task.result()
        # The next one may begin while this one is written.
        fill()
        yield line, answer
  finally:
    for task in running:
      task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def _output_line(line: BatchLine, answer: httpx.Response, body: Any) -> str:
  name = answer.headers.get("x-request-id", "")
  response = {"status_code": answer.status_code, "request_id": name, "body": body}
  made = {"id": f"batch_req_{name}" if name else None, "custom_id": line.custom_id, "response": response, "error": None}
  return json.dumps(made, ensure_ascii=False) + "\n"


def _object(where: str, text: str) -> dict[str, Any]:
  try:
    found = json.loads(text)
  except ValueError:
    found = None
  if not isinstance(found, dict):
    raise refusal(where, text, "a JSON object, as OpenAI's batches have it")
  return found
