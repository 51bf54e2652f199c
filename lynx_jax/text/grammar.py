"""Grammars that outputs must follow, over a model's own tokenizer, by llguidance (extra `serve`).

A `Grammar` is what `Request.constraint` and `lynx_jax.generate(constraint=...)` take.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lynx_jax.text.lark import choice_grammar, json_grammar, regex_grammar, token
from lynx_jax.text.tokenizer import Tokenizer
from pallas_kernels.checks import require

if TYPE_CHECKING:
  from llguidance import LLMatcher

MOST_CHARACTERS = 2**16
"""Of a grammar or a schema, as text."""
_CACHED = 128
_LIMITS = {
  "initial_lexer_fuel": 1_000_000,
  "step_lexer_fuel": 100_000,
  "step_max_items": 20_000,
  "max_lexer_states": 20_000,
  "max_grammar_size": 200_000,
  # A message should not repeat a grammar of 64 kB.
  "verbose_errors": False,
}
"""What llguidance may spend: about 20 ms on making a grammar's automata, 8 ms on a step, 40 MB on states."""


class Grammar:
  """A compiled grammar: a constraint of any number of outputs."""

  def __init__(self, matcher: "LLMatcher"):
    """Over a matcher that has taken no token."""
    self._matcher = matcher

  def start(self) -> "GrammarState":
    """The state of an output that has not begun."""
    return GrammarState(self._matcher.deep_copy())


class GrammarState:
  """One output on its way."""

  def __init__(self, matcher: "LLMatcher"):
    self._matcher = matcher

  def allowed(self) -> bytes:
    """The tokens that may come next, one bit each."""
    mask = self._matcher.compute_bitmask()
    self._check()
    return mask

  def may_end(self) -> bool:
    """Whether the output may end here."""
    return self._matcher.is_accepting()

  def advance(self, token: int) -> None:
    """Notes a token. Raises ValueError if it may not come here, or the grammar is too complex here."""
    self._matcher.consume_token(token)
    self._check()

  def _check(self) -> None:
    if self._matcher.is_error():
      raise ValueError(_first_lines(self._matcher.get_error()))


class Grammars:
  """Makes grammars for a model; those made before are kept, the latest 128."""

  def __init__(self, tokenizer: Tokenizer, vocab: int):
    """Reads the vocabulary: about 50 ms for 4,000 tokens, a second for 150,000.

    Args:
      tokenizer: the model's.
      vocab: token ids that the model has.

    Raises:
      ImportError: llguidance is not installed.
    """
    try:
      import llguidance
    except ImportError as error:
      raise ImportError("llguidance is not installed: pip install 'lynx-jax[serve]'") from error
    self._lib = llguidance
    self._tokenizer = tokenizer
    self._limits = llguidance.LLParserLimits(**_LIMITS)
    eos = 0 if tokenizer.eos_id is None else tokenizer.eos_id
    self._vocabulary = llguidance.LLTokenizer(tokenizer.to_json(), n_vocab=vocab, eos_token=eos)
    self._compiled = functools.lru_cache(maxsize=_CACHED)(self._compile)

  def mark(self, text: str) -> str:
    """Writes a mark of a format in Lark's notation: as its token if that is a special one, which no text is made of."""
    number = self._tokenizer.token_id(text)
    return token(number) if number is not None and number in self._tokenizer.special_ids else json.dumps(text)

  def json(self, schema: Mapping[str, Any] | bool, *, lenient: bool = False) -> Grammar:
    """JSON that a schema describes. Raises as `lark`; `lenient` leaves out keywords that are not known."""
    return self.lark(json_grammar(schema, lenient=lenient))

  def regex(self, pattern: str) -> Grammar:
    """Text that a regular expression matches as a whole (of Rust's `regex`). Raises as `lark`."""
    return self.lark(regex_grammar(pattern))

  def choice(self, texts: Sequence[str]) -> Grammar:
    """One of several texts. Raises as `lark`."""
    return self.lark(choice_grammar(texts))

  def lark(self, text: str) -> Grammar:
    """The grammar of Lark's notation, or of several grammars as JSON, as llguidance has them.

    Raises:
      ValueError: it is too long, it cannot be read, or it is too complex.
    """
    return self._compiled(text)

  def _compile(self, text: str) -> Grammar:
    require(len(text) <= MOST_CHARACTERS, "a grammar", f"{len(text)} characters", f"at most {MOST_CHARACTERS}")
    matcher = self._lib.LLMatcher(self._vocabulary, text, log_level=0, limits=self._limits)
    if matcher.is_error():
      raise ValueError(_first_lines(matcher.get_error()))
    return Grammar(matcher)


def as_lark(text: str) -> str:
  """A grammar in Lark's notation: as it is, or from that of llama.cpp (`root ::= ...`).

  Raises:
    ValueError: it cannot be read.
  """
  if "::=" not in text:
    return text
  from llguidance.gbnf_to_lark import any_to_lark

  try:
    return any_to_lark(text)
  except Exception as error:  # the converter raises bare Exception, and recurses
    raise ValueError(str(error) or "it nests too deep") from error


def _first_lines(message: str) -> str:
  """A message without what it quotes of the grammar."""
  kept = [line.strip() for line in message[:2000].splitlines() if " | " not in line and not set(line) <= set(" |^~")]
  return " ".join(kept)[:500]
