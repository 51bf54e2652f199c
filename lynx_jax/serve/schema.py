"""What clients send: the bodies of requests, checked by pydantic.

A field that is null counts as not given. Lists stop at their first fault, so that a body of many faults costs no more
than one of one fault.
"""

from typing import Annotated, Any, Literal, TypeAlias

import pydantic
from pydantic import Field, WithJsonSchema

from lynx_jax.engine.host.adjustments import MOST_BIASES, MOST_PENALTY
from lynx_jax.engine.host.request import MOST_LOGPROBS, MOST_PRIORITY, MOST_STOP_STRINGS, Quality

MOST_N = 64
MOST_TOOLS = 128
_LONGEST_STOP = 1024
_MOST_MESSAGES = 4096
_TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}

Whole: TypeAlias = Annotated[int, Field(strict=True)]
Number: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Bias: TypeAlias = Annotated[float, Field(strict=True, ge=-100, le=100)]
Stop: TypeAlias = Annotated[str, Field(max_length=_LONGEST_STOP, min_length=1)]


class Body(pydantic.BaseModel):
  """A body of a request. What it does not know is kept apart, in `model_extra`."""

  model_config = pydantic.ConfigDict(extra="allow", strict=True, protected_namespaces=())


class JsonSchema(Body):
  """What JSON an answer must be."""

  name: Annotated[str, Field(max_length=64)] | None = None
  description: str | None = None
  schema_: Annotated[Any, Field(alias="schema"), WithJsonSchema({"type": ["object", "boolean"]})] = None
  strict: bool | None = None


class ResponseFormat(Body):
  """The form of an answer."""

  type: Literal["text", "json_object", "json_schema"]
  json_schema: JsonSchema | None = None


class StructuredOutputs(Body):
  """The form of an answer, as vLLM has it: one of these."""

  json_: Annotated[Any, Field(alias="json"), WithJsonSchema({"type": ["object", "string"]})] = None
  regex: str | None = None
  choice: Annotated[list[str], Field(min_length=1, max_length=1024, fail_fast=True)] | None = None
  grammar: str | None = None
  json_object: bool | None = None


class Function(Body):
  """A function that a model may call."""

  name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
  description: str | None = None
  parameters: dict[str, Any] | None = None
  strict: bool | None = None


class Tool(Body):
  """A tool."""

  type: Literal["function"]
  function: Function


class CalledFunction(Body):
  """A function that was called; its arguments are an object, as text."""

  name: Annotated[str, Field(max_length=256)]
  arguments: str | None = None


class ToolCall(Body):
  """A call in an assistant's turn."""

  id: str | None = None
  type: Literal["function"] | None = None
  function: CalledFunction


class StreamOptions(Body):
  """How a stream ends."""

  include_usage: bool | None = None


class Decoding(Body):
  """Fields that chat and completions share."""

  model: str | None = None
  max_tokens: Annotated[Whole, Field(ge=0)] | None = None
  n: Annotated[Whole, Field(ge=1, le=MOST_N)] | None = None
  temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
  top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
  top_k: Annotated[Whole, Field(ge=-1, le=2**31 - 1)] | None = None
  min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
  repetition_penalty: Annotated[Number, Field(gt=0, le=100)] | None = None
  frequency_penalty: Annotated[Number, Field(ge=-MOST_PENALTY, le=MOST_PENALTY)] | None = None
  presence_penalty: Annotated[Number, Field(ge=-MOST_PENALTY, le=MOST_PENALTY)] | None = None
  logit_bias: Annotated[dict[str, Annotated[Number, Field(ge=-100, le=100)]], Field(max_length=MOST_BIASES)] | None = (
    None
  )
  min_tokens: Annotated[Whole, Field(ge=0)] | None = None
  seed: Annotated[Whole, Field(ge=-(2**63), le=2**63 - 1)] | None = None
  stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOP_STRINGS, fail_fast=True)] | None = None
  stop_token_ids: Annotated[list[Annotated[Whole, Field(ge=0)]], Field(max_length=64, fail_fast=True)] | None = None
  ignore_eos: bool | None = None
  stream: bool | None = None
  stream_options: StreamOptions | None = None
  priority: Annotated[Whole, Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY)] | None = None
  response_format: ResponseFormat | None = None
  structured_outputs: StructuredOutputs | None = None
  guided_json: Annotated[Any, WithJsonSchema({"type": ["object", "string"]})] = None
  guided_regex: str | None = None
  guided_choice: Annotated[list[str], Field(min_length=1, max_length=1024, fail_fast=True)] | None = None
  guided_grammar: str | None = None
  cache_salt: Annotated[str, Field(max_length=256)] | None = None
  quality: Quality | None = None
  return_routing: bool | None = None
  return_token_ids: bool | None = None


class Message(Body):
  """One turn of a conversation. Templates may know more fields; they are given them."""

  role: Literal["system", "developer", "user", "assistant", "tool", "function"]
  content: str | Annotated[list["Part"], Field(max_length=256, fail_fast=True)] | None = None
  reasoning_content: str | None = None
  tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = None
  tool_call_id: str | None = None


class Part(Body):
  """A part of a message: text, as other kinds are not served."""

  type: Literal["text"]
  text: str


class ChatBody(Decoding):
  """The body of /v1/chat/completions."""

  messages: Annotated[list[Message], Field(min_length=1, max_length=_MOST_MESSAGES, fail_fast=True)]
  max_completion_tokens: Annotated[Whole, Field(ge=1)] | None = None
  logprobs: bool | None = None
  top_logprobs: Annotated[Whole, Field(ge=0, le=MOST_LOGPROBS)] | None = None
  tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = None
  tool_choice: Annotated[Any, WithJsonSchema({"anyOf": [
    {"enum": ["none", "auto", "required", None]},
    {"type": "object", "required": ["type", "function"], "properties": {
      "type": {"const": "function"}, "function": {"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string"},
    }}}},
  ]})] = None  # fmt: skip
  parallel_tool_calls: bool | None = None
  chat_template_kwargs: dict[str, Any] | None = None
  reasoning_effort: Annotated[str, Field(max_length=32)] | None = None
  add_generation_prompt: bool | None = None
  continue_final_message: bool | None = None


class CompletionBody(Decoding):
  """The body of /v1/completions."""

  # Checked where it is read: pydantic would try a list of a million numbers as each kind of list.
  prompt: Annotated[Any, WithJsonSchema({"anyOf": [
    {"type": "string"}, {"type": "array", "items": {"type": "string"}}, _TOKEN_IDS,
    {"type": "array", "items": _TOKEN_IDS},
  ]})]  # fmt: skip
  logprobs: Annotated[Whole, Field(ge=0, le=MOST_LOGPROBS)] | None = None
  echo: bool | None = None
  best_of: Annotated[Whole, Field(ge=1, le=MOST_N)] | None = None


class TokenizeBody(Body):
  """The body of /tokenize: a text, or a conversation."""

  model: str | None = None
  prompt: str | None = None
  messages: Annotated[list[Message], Field(min_length=1, max_length=_MOST_MESSAGES, fail_fast=True)] | None = None
  add_special_tokens: bool | None = None
  add_generation_prompt: bool | None = None
  chat_template_kwargs: dict[str, Any] | None = None
  return_token_strs: bool | None = None


class DetokenizeBody(Body):
  """The body of /detokenize."""

  model: str | None = None
  tokens: Annotated[Any, WithJsonSchema(_TOKEN_IDS)]
