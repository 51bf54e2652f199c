"""How a request draws its tokens, as plain data."""

import dataclasses

from pallas_kernels.checks import number_fields, whole_fields


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
  """Settings of one request; the filters apply in the order of the fields, as in transformers.

  Attributes:
    temperature: divides the logits; 0 takes the most likely token.
    top_k: keeps the `top_k` most likely tokens (and ties with the last); 0 keeps all.
    top_p: keeps the fewest tokens whose probability reaches `top_p` (arXiv 1904.09751); 1 keeps all.
    min_p: keeps tokens at least `min_p` times as likely as the first (arXiv 2407.01082); 0 keeps all.
    seed: of the row's random numbers; a row's tokens depend on seed and stream, and on nothing else in the batch.
    stream: which of the seed's random streams; rows that share a seed draw differently in different streams.
  """

  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  seed: int = 0
  stream: int = 0

  def __post_init__(self) -> None:
    number_fields(self, "temperature", least=0, most=100, remedy="0 is greedy")
    whole_fields(self, "top_k", least=0, most=2**31 - 1, remedy="0 is off")
    number_fields(self, "top_p", above=0, most=1, remedy="1 is off")
    number_fields(self, "min_p", least=0, most=1, remedy="0 is off")
    whole_fields(self, "seed", "stream", least=0, most=2**32 - 1)
