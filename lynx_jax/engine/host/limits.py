"""What the machine and the model allow."""

import dataclasses

from lynx_jax.engine.host.request import Overloaded, Request
from lynx_jax.engine.host.step_plan import BLOCK_SIZE, Programs
from pallas_kernels.checks import field_of, require, whole_fields


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
  """Sizes of an engine, and the facts of its model that scheduling needs.

  Attributes:
    blocks: of the paged cache.
    slots: sequences that run at the same time.
    context: positions of the longest sequence.
    vocab: token ids of the model; None does not check them.
    block_size: positions of a block.
    programs: the shapes that a step may have.
    eos_ids: the model's own stop tokens.
    policy: the routing policy of adaptive rows, named; "" if there is none, and all rows are exact.
    canonical_chunk: None, or the tokens of every chunk but a prompt's last, each in a step without decode rows, in the
      one mixed program of this size, while rows decode in the one largest program. Then exact requests get the same
      bits whatever else runs, unless the device fails or weights are replaced on the way.
    short_prompt: None, or the tokens of a prompt past which the model rotates all its positions in another way
      (LongRoPE): longer prompts share no blocks with shorter ones.
    most_waiting: requests that may wait; None is no limit.
    most_waiting_tokens: of the requests that wait; None is no limit. One request may always wait.
  """

  blocks: int
  slots: int
  context: int
  vocab: int | None = None
  block_size: int = BLOCK_SIZE
  programs: Programs = Programs()  # noqa: RUF009 (frozen)
  eos_ids: frozenset[int] = frozenset()
  policy: str = ""
  canonical_chunk: int | None = None
  short_prompt: int | None = None
  most_waiting: int | None = None
  most_waiting_tokens: int | None = None

  def __post_init__(self) -> None:
    whole_fields(self, "blocks", "slots", "context", "block_size", least=1)
    decode, mixed = self.programs.decode[-1], self.programs.mixed
    require(self.slots <= decode, field_of(self, "slots"), self.slots, f"at most {decode}, the largest decode program")
    remedy = "every step must have room for a prompt's token"
    require(self.slots < mixed[0], field_of(self, "slots"), self.slots, f"fewer than {mixed[0]}", remedy)
    if self.canonical_chunk is not None:
      whole_fields(self, "canonical_chunk", least=1)
      where, chunk = field_of(self, "canonical_chunk"), self.canonical_chunk
      require(chunk in mixed, where, chunk, f"one of the mixed programs' sizes, {mixed}")
      require(chunk % self.block_size == 0, where, chunk, f"a multiple of the block size, {self.block_size}")
    for field in ("most_waiting", "most_waiting_tokens"):
      if getattr(self, field) is not None:
        whole_fields(self, field, least=0, remedy="None is no limit")

  def check(self, request: Request, *, text: bool) -> None:
    """Raises ValueError for a request that can never run here; `text` says whether the engine decodes text."""
    name, prompt = f"request {request.id!r}", request.prompt
    most = self.context - request.max_new_tokens
    remedy = f"prompt and new tokens must fit the context of {self.context}; shorten one of them"
    require(len(prompt) <= most, f"prompt length of {name}", len(prompt), f"at most {most} tokens", remedy)
    stops = request.stop_token_ids | (frozenset() if request.ignore_eos else self.eos_ids)
    found = sorted(stops.intersection(request.output_so_far))
    require(not found, f"output_so_far of {name}", found, "no stop token", "an output that has ended does not go on")
    blocks = -(-(len(prompt) + max(request.max_new_tokens - 1, 0)) // self.block_size)
    remedy = "ask for fewer tokens, or give the cache more memory"
    require(blocks <= self.blocks, f"cache of {name}", blocks, f"at most {self.blocks} blocks", remedy)
    if self.vocab is not None:
      largest = max(*prompt, *request.output_so_far, 0)
      require(largest < self.vocab, f"a token of {name}", largest, f"a token id below {self.vocab}")
      biased = max((token for token, _ in request.adjustments.logit_bias), default=0)
      require(biased < self.vocab, f"logit_bias of {name}", biased, f"token ids below {self.vocab}")
    require(
      text or not request.stop_strings, f"stop_strings of {name}", request.stop_strings, "none, without a tokenizer"
    )
    remedy = "say in Limits how many tokens the model has"
    known = self.vocab is not None or request.constraint is None
    require(known, f"constraint of {name}", request.constraint, "None where the vocabulary is not known", remedy)
    remedy = "start the engine with canonical chunks"
    possible = self.canonical_chunk is not None or not request.deterministic
    require(possible, f"deterministic of {name}", request.deterministic, "False in this engine", remedy)

  def check_queue(self, request: Request, *, waiting: int, tokens: int) -> None:
    """Raises Overloaded if a request may not join so many that wait, with so many tokens in their prompts."""
    most, most_tokens = self.most_waiting, self.most_waiting_tokens
    if most is not None and waiting >= most:
      raise Overloaded(f"request {request.id!r} finds {most} requests waiting, the most allowed: try again later")
    if most_tokens is not None and waiting and tokens + len(request.prompt) > most_tokens:
      raise Overloaded(f"request {request.id!r} would make more than {most_tokens} tokens wait: try again later")
