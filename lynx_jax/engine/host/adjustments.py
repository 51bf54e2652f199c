"""What a request changes in the scores of the next token: biases, penalties, and stop tokens that must wait."""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pallas_kernels.checks import field_of, number, number_fields, require, whole_fields, whole_number

MOST_BIASES = 300
MOST_PENALTY = 2.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Adjustments:
  """Changes of the logits before a token is drawn, in the order of the fields, as vLLM has them.

  Attributes:
    repetition_penalty: divides positive logits, and multiplies the others, of tokens of the prompt and the output
      (arXiv 1909.05858); 1 is off.
    frequency_penalty: taken from a token's logit as often as the output has it; 0 is off.
    presence_penalty: taken once from the logit of a token that the output has; 0 is off.
    logit_bias: token ids and what is added to their logits.
    min_tokens: tokens before which no stop token is drawn. Stop strings may end the output before.
  """

  repetition_penalty: float = 1.0
  frequency_penalty: float = 0.0
  presence_penalty: float = 0.0
  logit_bias: tuple[tuple[int, float], ...] = ()
  min_tokens: int = 0

  def __post_init__(self) -> None:
    number_fields(self, "repetition_penalty", above=0, most=100, remedy="1 is off")
    for field in ("frequency_penalty", "presence_penalty"):
      number_fields(self, field, least=-MOST_PENALTY, most=MOST_PENALTY, remedy="0 is off")
    whole_fields(self, "min_tokens", least=0)
    where = field_of(self, "logit_bias")
    biases = [
      (whole_number(f"a token of {where}", token, least=0), number(f"{where} of {token}", bias, least=-100, most=100))
      for token, bias in self.logit_bias
    ]
    require(len(biases) <= MOST_BIASES, where, len(biases), f"at most {MOST_BIASES} tokens")
    object.__setattr__(self, "logit_bias", tuple(sorted(dict(biases).items())))

  @property
  def changes(self) -> bool:
    """Whether there is any."""
    return self != _NONE

  @property
  def counts_tokens(self) -> bool:
    """Whether a change depends on the tokens drawn so far."""
    return self.repetition_penalty != 1 or bool(self.frequency_penalty or self.presence_penalty)


_NONE = Adjustments()


class AdjustedDraw(NamedTuple):
  """What one draw of a step changes; nothing else of the row's logits changes.

  Attributes:
    slot: that draws.
    ids: tokens, each once.
    scale: what divides their logits where they are positive, and multiplies them elsewhere.
    add: what is then added.
  """

  slot: int
  ids: tuple[int, ...]
  scale: tuple[float, ...]
  add: tuple[float, ...]


def adjusted_draw(
  adjustments: Adjustments, slot: int, tokens: Sequence[int], prompt: int, drawn: int, stop_ids: Iterable[int]
) -> AdjustedDraw:
  """The changes of a draw after `tokens`, the first `prompt` of which are the prompt; `drawn` were drawn before."""
  add: dict[int, float] = collections.defaultdict(float, adjustments.logit_bias)
  scale: Mapping[int, float] = {}
  if adjustments.counts_tokens:
    for token, count in collections.Counter(tokens[prompt:]).items():
      add[token] -= adjustments.frequency_penalty * count + adjustments.presence_penalty
    if adjustments.repetition_penalty != 1:
      scale = dict.fromkeys(tokens, adjustments.repetition_penalty)
  if drawn < adjustments.min_tokens:
    add.update(dict.fromkeys(stop_ids, -math.inf))
  ids = tuple(sorted({*add, *scale}))
  return AdjustedDraw(slot, ids, tuple(scale.get(one, 1.0) for one in ids), tuple(add.get(one, 0.0) for one in ids))
