"""Which tools a chat may call, and whether it must."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lynx_jax.serve.errors import ApiError, refused
from lynx_jax.serve.schema import ChatBody
from lynx_jax.text.tool_calls import Tools
from lynx_jax.text.turn_formats import TurnFormat


class ToolUse(NamedTuple):
  """The tools of one request.

  Attributes:
    shown: what the template is told; None tells it of no tools.
    tools: the schema of the arguments of each tool that may be called.
    must: whether the answer has to be a call.
    several: whether it may be several.
  """

  shown: list[dict[str, Any]] | None
  tools: Tools
  must: bool
  several: bool


NO_TOOLS = ToolUse(None, {}, must=False, several=False)


def read_tools(body: ChatBody, form: TurnFormat) -> ToolUse:
  """What a body says of tools.

  Raises:
    ApiError: a choice that is none, a name that comes twice, or a model that knows no tools.
  """
  choice = _choice(body.tool_choice)
  if not body.tools:
    if choice not in ("none", "auto"):
      raise refused("tool_choice", body.tool_choice, "none or auto, as there are no tools")
    return NO_TOOLS
  names = [tool.function.name for tool in body.tools]
  for index, name in enumerate(names):
    if name in names[:index]:
      raise refused(f"tools.{index}.function.name", name, "a name that no other tool has")
  if choice == "none":
    return NO_TOOLS
  if form.tools is None:
    message = "tools are given, and this model's chat template shows no calls: start the server with --tool-format NAME"
    raise ApiError(400, message, param="tools")
  try:
    shown = [tool.model_dump(exclude_none=True) for tool in body.tools]
  except (ValueError, RecursionError) as error:
    raise refused("tools", "nested too deep", "schemas of fewer levels") from error
  tools = {tool.function.name: tool.function.parameters or {} for tool in body.tools}
  several = body.parallel_tool_calls is not False
  if isinstance(choice, tuple):
    (name,) = choice
    if name not in tools:
      raise refused("tool_choice.function.name", name, f"the name of a tool: {', '.join(names)}")
    return ToolUse(shown, {name: tools[name]}, must=True, several=False)
  return ToolUse(shown, tools, must=choice == "required", several=several)


def _choice(given: Any) -> str | tuple[str]:
  """`none`, `auto`, `required`, or the name of a function in a tuple."""
  if given is None:
    return "auto"
  if given in ("none", "auto", "required") and isinstance(given, str):
    return given
  function = given.get("function") if isinstance(given, Mapping) and given.get("type") == "function" else None
  name = function.get("name") if isinstance(function, Mapping) else None
  if not isinstance(name, str):
    expected = 'none, auto, required, or {"type": "function", "function": {"name": ...}}'
    raise refused("tool_choice", given, expected)
  return (name,)
