"""How a server is set up, beside its engine."""

import dataclasses
import time

from lynx_jax.engine.host.request import WEIGHTS, Quality
from lynx_jax.text.turn_formats import turn_format
from pallas_kernels.checks import field_of, number_fields, require, whole_fields


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
  """What a server promises and where its bounds are.

  Attributes:
    model: the name that requests give; others are not found.
    keys: clients must send one of these as a bearer token; none lets everybody in.
    origins: of web pages that may call the server (CORS); "*" is all.
    strict: whether an unknown field is an error. If not, it is ignored, and a header of the answer names it.
    quality: of requests that say nothing about it.
    tool_format: how the model writes calls of tools; None is what its chat template shows, "none" looks for no calls.
    reasoning_format: how it marks reasoning, in the same way.
    most_choices: that a request may ask for: its prompts times `n`.
    most_per_key: requests that may be under way with one key; None is no limit.
    most_body_bytes: of a request.
    body_seconds: within which a request's body must have arrived.
    wait_seconds: for which a request may wait for its first token before it is given up; None is no limit.
    reader_seconds: for which a client may not read before it is dropped.
    drain_seconds: for which requests may go on once the server ends.
    page: whether `/` is a page with a chat and a map of the experts (`EngineSettings.readers` fills the map).
    started: Unix time at which the model was ready to be named.
  """

  model: str = "lynx"
  keys: frozenset[str] = frozenset()
  origins: tuple[str, ...] = ()
  strict: bool = False
  quality: Quality = "standard"
  tool_format: str | None = None
  reasoning_format: str | None = None
  most_choices: int = 128
  most_per_key: int | None = None
  most_body_bytes: int = 8 * 2**20
  body_seconds: float = 60.0
  wait_seconds: float | None = None
  reader_seconds: float = 60.0
  drain_seconds: float = 30.0
  page: bool = True
  started: int = dataclasses.field(default_factory=lambda: int(time.time()))

  def __post_init__(self) -> None:
    require(bool(self.model), field_of(self, "model"), self.model, "a name that is not empty")
    remedy = "write keys of at least 8 characters, without spaces"
    for key in self.keys:
      # The key itself stays out of messages.
      require(len(key) >= 8 and key.isascii() and key.isprintable() and " " not in key, "a key", "...", "a key", remedy)
    require(self.quality in WEIGHTS, field_of(self, "quality"), self.quality, f"one of {', '.join(WEIGHTS)}")
    turn_format(None, "", self.tool_format, self.reasoning_format)
    whole_fields(self, "most_choices", "most_body_bytes", least=1)
    number_fields(self, "body_seconds", "reader_seconds", above=0)
    number_fields(self, "drain_seconds", least=0)
    if self.most_per_key is not None:
      whole_fields(self, "most_per_key", least=1)
      require(bool(self.keys), field_of(self, "most_per_key"), self.most_per_key, "None where no key is asked for")
    if self.wait_seconds is not None:
      number_fields(self, "wait_seconds", above=0)
