"""/tokenize and /detokenize."""

from fastapi import APIRouter
from starlette.responses import Response

from lynx_jax.serve.engine_requests import check_fields, ignored_header
from lynx_jax.serve.errors import ERRORS, ApiError, refused
from lynx_jax.serve.prompts import check_token_ids, encode, read_chat
from lynx_jax.serve.schema import DetokenizeBody, TokenizeBody
from lynx_jax.serve.served import Served
from lynx_jax.serve.wire import Text, Tokens
from lynx_jax.serve.wire import encode as to_json


def token_routes(served: Served) -> APIRouter:
  """The routes of tokens."""
  router = APIRouter()

  @router.post("/tokenize", responses=ERRORS)
  async def tokenize(body: TokenizeBody) -> Response:
    """Token ids of a text, or of a conversation by the chat template."""
    served.check_model(body.model)
    unknown = check_fields(served, body)
    if (body.prompt is None) == (body.messages is None):
      raise ApiError(400, "prompt and messages: expected one of them", param="prompt")
    if body.prompt is not None:
      ids = await encode(served, body.prompt, "prompt", add_special_tokens=body.add_special_tokens is not False)
    else:
      options = {**(body.chat_template_kwargs or {}), "add_generation_prompt": body.add_generation_prompt is not False}
      ids = list((await read_chat(served, body.messages or [], options, open_end=False)).ids)
    strings = [served.texts.text_of(token) for token in ids] if body.return_token_strs and served.texts else None
    return _json(Tokens(len(ids), served.room, ids, strings), ignored_header(unknown))

  @router.post("/detokenize", responses=ERRORS)
  async def detokenize(body: DetokenizeBody) -> Response:
    """The text of token ids."""
    served.check_model(body.model)
    unknown = check_fields(served, body)
    if served.tokenizer is None:
      raise ApiError(400, "this model has no tokenizer")
    if isinstance(body.tokens, list) and len(body.tokens) > served.room:
      raise refused("tokens", f"{len(body.tokens)} token ids", f"at most {served.room}")
    ids = check_token_ids(served, body.tokens, "tokens")
    return _json(Text(served.tokenizer.decode(ids)), ignored_header(unknown))

  return router


def _json(made: object, headers: dict[str, str]) -> Response:
  return Response(to_json(made), headers=headers, media_type="application/json")
