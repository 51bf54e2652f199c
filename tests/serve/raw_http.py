"""A client that sends and reads what it likes."""

import json
import socket
from urllib.parse import urlsplit


def connect(url: str, rcvbuf: int | None = None) -> socket.socket:
  """A connection to a server; `rcvbuf` bounds what the kernel holds for a client that does not read."""
  parts = urlsplit(url)
  client = socket.socket()
  if rcvbuf is not None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
  client.settimeout(60)
  client.connect((parts.hostname, parts.port))
  return client


def post(path: str, body: dict | bytes, *headers: str) -> bytes:
  """A request."""
  data = body if isinstance(body, bytes) else json.dumps(body).encode()
  lines = [
    f"POST {path} HTTP/1.1",
    "host: x",
    "content-type: application/json",
    f"content-length: {len(data)}",
    *headers,
  ]
  return "\r\n".join([*lines, "", ""]).encode() + data


def read_all(client: socket.socket) -> bytes:
  """What comes until the server closes."""
  parts = []
  try:
    while part := client.recv(2**16):
      parts.append(part)
  except ConnectionResetError:
    pass
  return b"".join(parts)


def status_and_error(answer: bytes) -> tuple[int, dict]:
  """The status of an answer, and the error in its body."""
  head, _, body = answer.partition(b"\r\n\r\n")
  return int(head.split()[1]), json.loads(body)["error"]
