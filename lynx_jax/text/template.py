"""Chat templates, rendered in a sandbox that bounds their time, their memory and what they can reach.

A template comes with a checkpoint and is not trusted. Jinja's sandbox keeps it from Python's internals. What it leaves
open is closed here: loops without end, products and formats of any size, joined text of any length.
"""

import datetime
import functools
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.compiler
import jinja2.ext
import jinja2.sandbox

MOST_SECONDS = 2.0
"""Processor time of one rendering."""
MOST_CHARACTERS = 2**24
"""Length of any text or list that a template makes, its result included."""
_MOST_BITS = 2**14
_MOST_COUNT = 100_000
"""Largest number that a template may give to what repeats or pads."""
_LONG_NUMBER = re.compile(r"[0-9]{6,}")
_WIDTH_FROM_ARGUMENT = re.compile(r"\{[^{}]*\{|%[^a-zA-Z]*\*")

# Methods and filters whose result can be longer than what they are given by a factor.
_MULTIPLYING = (
  "batch",
  "center",
  "expandtabs",
  "indent",
  "join",
  "ljust",
  "replace",
  "rjust",
  "slice",
  "wordwrap",
  "zfill",
)
_FORMATTING = ("format", "format_map", "strftime_now")


def render(source: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
  """The text of `messages` by the template `source`.

  Raises:
    ValueError: the template refuses the messages, is broken, or takes more time or memory than a template may.
  """
  try:
    template = _compile(source)
    template.environment.begin()  # pyright: ignore[reportAttributeAccessIssue]
    return template.render(messages=messages, **variables)
  except jinja2.TemplateError as error:
    raise ValueError(f"the chat template refuses these messages: {error}") from error
  except Exception as error:  # a template can raise whatever Python can
    reason = str(error) or "no more is known"
    raise ValueError(f"the chat template fails with {type(error).__name__} ({reason}): it is broken") from error


class _TimedCode(jinja2.compiler.CodeGenerator):
  """Jinja's code, which looks at the clock whenever it enters a block: each turn of a loop, each call of a macro."""

  def blockvisit(self, nodes: Iterable[Any], frame: Any) -> None:
    """Writes the code of a block."""
    self.writeline("environment.look_at_the_clock()")
    super().blockvisit(nodes, frame)


class _Bounded(jinja2.sandbox.ImmutableSandboxedEnvironment):
  """Jinja's sandbox with bounds on time and sizes."""

  code_generator_class = _TimedCode
  intercepted_binops = frozenset({"+", "*", "**", "%"})

  def __init__(self, **options: Any):
    super().__init__(**options)
    self._thread = threading.local()
    self.concat = self.joined
    for name in (*_MULTIPLYING, *_FORMATTING, "join"):
      if name in self.filters:
        self.filters[name] = _checked_filter(name, self.filters[name])

  def begin(self) -> None:
    """Starts the clock of a rendering in this thread."""
    self._thread.end = time.thread_time() + MOST_SECONDS

  def look_at_the_clock(self) -> None:
    """Ends a rendering that takes too long."""
    if time.thread_time() > self._thread.end:
      raise jinja2.TemplateRuntimeError(f"it runs for more than {MOST_SECONDS:g} s")

  def joined(self, parts: Iterable[str]) -> str:
    """Text from its parts."""
    held, size = [], 0
    for part in parts:
      size += len(part)
      _bound(size)
      held.append(part)
    return "".join(held)

  def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
    """An operator of the template, if its result is of bounded size."""
    check = {"+": _check_sum, "*": _check_product, "**": _check_power, "%": _check_format}[operator]
    check(left, right)
    return super().call_binop(context, operator, left, right)

  def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 (as Jinja has it)
    """A call of the template, if its result is of bounded size."""
    # The sandbox wraps `str.format`; what it wraps knows the text that it formats.
    owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
    text = (owner,) if isinstance(owner, str) else ()
    checked = _checked(getattr(__obj, "__name__", ""), (*text, *args), kwargs)
    return super().call(__context, __obj, *checked[len(text) :], **kwargs)

  def _generate(self, source: Any, name: Any, filename: Any, defer_init: bool = False) -> str:
    # Compiled templates name Jinja's functions in their first line; joining goes through the bounded one.
    code = super()._generate(source, name, filename, defer_init)
    head, _, rest = code.partition("\n")
    return f"{head}\nconcat = environment.joined\nstr_join = lambda parts: environment.joined(map(str, parts))\n{rest}"


def _checked_filter(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
  @functools.wraps(filter_)
  def checked(*arguments: Any, **options: Any) -> Any:
    # Filters that need the environment or its evaluation context get it first.
    return filter_(*_checked(name, arguments, options), **options)

  return checked


def _bound(size: int, most: int = MOST_CHARACTERS) -> None:
  if size > most:
    raise jinja2.TemplateRuntimeError(f"it makes a value of size {size}, more than {most}")


def _is_sized(value: Any) -> bool:
  return isinstance(value, str | list | tuple | dict)


def _is_number(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _check_sum(left: Any, right: Any) -> None:
  if _is_sized(left) and _is_sized(right):
    _bound(len(left) + len(right))


def _check_product(left: Any, right: Any) -> None:
  for value, count in ((left, right), (right, left)):
    if _is_sized(value) and _is_number(count):
      _bound(len(value) * max(count, 0))
  if _is_number(left) and _is_number(right):
    _bound(left.bit_length() + right.bit_length(), _MOST_BITS)


def _check_power(left: Any, right: Any) -> None:
  if _is_number(left) and _is_number(right):
    _bound(left.bit_length() * abs(right), _MOST_BITS)


def _check_format(left: Any, right: Any) -> None:
  if isinstance(left, str):
    _checked("format", (left, *(right if isinstance(right, tuple) else (right,))), {})


def _checked(name: str, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[Any, ...]:
  """The arguments of a method or a filter, the text that it works on among them, if its result is of bounded size."""
  given = (*arguments, *options.values())
  counts = [abs(value) for value in given if _is_number(value)]
  if name == "join":
    texts = [len(value) for value in given if isinstance(value, str)]
    _bound(math.prod(texts))
    rest = [isinstance(value, Iterable) and not isinstance(value, str) for value in arguments]
    return tuple(
      _few(value, max(texts, default=0)) if several else value for value, several in zip(arguments, rest, strict=True)
    )
  if name in _FORMATTING:
    form = next((value for value in given if isinstance(value, str)), "")
    # Numbers may be large, but not where they are a width.
    widths = [int(digits) for digits in _LONG_NUMBER.findall(form)]
    _bound(max([*widths, *(counts if _WIDTH_FROM_ARGUMENT.search(form) else ())], default=0), _MOST_COUNT)
  elif name in _MULTIPLYING:
    _bound(max(counts, default=0), _MOST_COUNT)
    # Each occurrence is replaced, each gap filled, each line indented: a product at worst.
    _bound(math.prod(max(len(value), 1) for value in given if _is_sized(value)), 16 * MOST_CHARACTERS)
  return arguments


def _few(items: Iterable[Any], between: int) -> Iterator[Any]:
  """Passes items on while their sizes, with `between` characters after each, add up to little."""
  size = 0
  for item in items:
    size += between + (len(item) if _is_sized(item) else 1)
    _bound(size)
    yield item


@functools.lru_cache(maxsize=8)
def _compile(source: str) -> jinja2.Template:
  """Compiles a template in the environment that transformers gives it."""

  class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks an assistant's turn for training; here it renders what it encloses."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: Any) -> Any:
      next(parser.stream)
      return parser.parse_statements(("name:endgeneration",), drop_needle=True)

  environment = _Bounded(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
  environment.filters["tojson"] = _to_json
  environment.globals["raise_exception"] = _raise_exception
  environment.globals["strftime_now"] = strftime_now
  # Text without end, of no use to a conversation.
  del environment.globals["lipsum"]
  return environment.from_string(source)


def _raise_exception(message: str) -> None:
  raise jinja2.TemplateError(message)


def strftime_now(form: str) -> str:
  """The date and time now."""
  return datetime.datetime.now().strftime(form)


def _to_json(
  value: Any,
  ensure_ascii: bool = False,
  indent: Any = None,
  separators: Any = None,
  sort_keys: bool = False,
) -> str:
  """JSON without the HTML escapes of Jinja's own filter."""
  if _is_number(indent):
    _bound(indent, 64)
  return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
