"""What clients get: answers and chunks of streams, encoded by msgspec.

Fields with `UNSET` are left out. They are not OpenAI's, and are there for who asked for them.
"""

import msgspec
from msgspec import UNSET, Struct, UnsetType

_LEAST_LOGPROB = -9999.0
encode = msgspec.json.Encoder().encode

Routing = list[list[list[int]]]
"""Expert ids by token, MoE layer and rank."""


def finite(logprob: float) -> float:
  """A log-probability that JSON can hold: OpenAI's -9999 for impossible tokens."""
  return max(logprob, _LEAST_LOGPROB)


class CachedTokens(Struct):
  """Of a prompt's tokens, those that were computed before."""

  cached_tokens: int


class Usage(Struct):
  """Tokens that a request took."""

  prompt_tokens: int
  completion_tokens: int
  total_tokens: int
  prompt_tokens_details: CachedTokens


class TopLogprob(Struct):
  """A likely token."""

  token: str
  logprob: float
  bytes: list[int]


class TokenLogprob(Struct):
  """A drawn token, and the likely ones beside it."""

  token: str
  logprob: float
  bytes: list[int]
  top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
  """Log-probabilities of a chat's answer."""

  content: list[TokenLogprob]
  refusal: None = None


class TextLogprobs(Struct):
  """Log-probabilities of a completion: one entry a token in each list."""

  tokens: list[str]
  token_logprobs: list[float | None]
  top_logprobs: list[dict[str, float] | None] | None
  text_offset: list[int]


class FunctionCall(Struct):
  """A function that the model calls; its arguments are an object, as text."""

  name: str
  arguments: str


class ToolCall(Struct):
  """A call of a tool."""

  id: str
  function: FunctionCall
  type: str = "function"


class CallDelta(Struct):
  """A call of a tool in a chunk: whole, as the arguments are known to be good only then."""

  index: int
  id: str
  function: FunctionCall
  type: str = "function"


class ChatMessage(Struct):
  """The assistant's turn."""

  content: str | None
  role: str = "assistant"
  refusal: None = None
  reasoning_content: str | UnsetType = UNSET
  tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Struct):
  """One answer of a chat."""

  index: int
  message: ChatMessage
  logprobs: ChatLogprobs | None
  finish_reason: str | None
  token_ids: list[int] | UnsetType = UNSET
  routing: Routing | UnsetType = UNSET


class Delta(Struct, omit_defaults=True):
  """What a chunk adds to the assistant's turn."""

  role: str | None = None
  content: str | None = None
  reasoning_content: str | None = None
  tool_calls: list[CallDelta] | None = None


class DeltaChoice(Struct):
  """What a chunk adds to one answer of a chat."""

  index: int
  delta: Delta
  logprobs: ChatLogprobs | None = None
  finish_reason: str | None = None
  token_ids: list[int] | UnsetType = UNSET
  routing: Routing | UnsetType = UNSET


class TextChoice(Struct):
  """One completion, or what a chunk adds to it."""

  index: int
  text: str
  logprobs: TextLogprobs | None
  finish_reason: str | None
  token_ids: list[int] | UnsetType = UNSET
  prompt_token_ids: list[int] | UnsetType = UNSET
  routing: Routing | UnsetType = UNSET


class Answer(Struct):
  """An answer, or a chunk of a stream; `usage` of chunks is null but in the last, and unset if not asked for."""

  id: str
  object: str
  created: int
  model: str
  system_fingerprint: str
  choices: list[ChatChoice] | list[DeltaChoice] | list[TextChoice]
  usage: Usage | UnsetType | None = UNSET
  prompt_token_ids: list[int] | UnsetType = UNSET


class Model(Struct):
  """A model that the server has."""

  id: str
  created: int
  max_model_len: int
  object: str = "model"
  owned_by: str = "lynx_jax"


class Models(Struct):
  """All models."""

  data: list[Model]
  object: str = "list"


class Tokens(Struct):
  """The answer of /tokenize."""

  count: int
  max_model_len: int
  tokens: list[int]
  token_strs: list[str] | None = None


class About(Struct):
  """What a page says of its server: the model's name, the policy, the quality of requests that do not say, room."""

  model: str
  policy: str
  quality: str
  slots: int
  context: int


class ExpertCounts(Struct):
  """In how many steps each expert was read by whom, or saved: a byte for each layer and expert, in base64."""

  prompts: str
  exact: str
  adaptive: str
  saved: str


class Steps(Struct):
  """What the steps of a fraction of a second did.

  `new` counts the steps whose experts are known, `read` and `own` are experts a layer in the mean, `retained` is known
  with `--stats` alone.
  """

  new: int
  running: int
  waiting: int
  rows: int
  chunk_tokens: int
  step_ms: list[float]
  read: float
  own: float | None = None
  retained: float | None = None
  layers: int = 0
  experts: int = 0
  counts: ExpertCounts | None = None


class Text(Struct):
  """The answer of /detokenize."""

  prompt: str
