"""Streams completions from a server and exits with 0 if every token came; it imports nothing heavy.

It prints the Unix time at which the last one came.

python -m benchmarks.stream_client http://127.0.0.1:8000 STREAMS TOKENS
"""

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit


async def read_streams(url: str, streams: int, tokens: int) -> int:
  """Reads that many streams to their ends; returns the tokens that came."""
  body = json.dumps({
    "prompt": [5, 6, 7], "max_tokens": tokens, "ignore_eos": True, "stream": True,
    "stream_options": {"include_usage": True},
  }).encode()  # fmt: skip
  head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
  parts = urlsplit(url)

  async def one() -> int:
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
    answer = await reader.read(-1)
    writer.close()
    return json.loads(answer[answer.rindex(b'"usage":{') :].split(b"}}")[0][8:] + b"}}")["completion_tokens"]

  return sum(await asyncio.gather(*(one() for _ in range(streams))))


if __name__ == "__main__":
  wanted = int(sys.argv[2]), int(sys.argv[3])
  came = asyncio.run(read_streams(sys.argv[1], *wanted))
  print(time.time())
  sys.exit(came != wanted[0] * wanted[1])
