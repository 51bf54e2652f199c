"""Which of a sequence's blocks exist already, or are being computed by another."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from lynx_jax.engine.host.block_keys import block_key, root_key
from lynx_jax.engine.host.block_pool import BlockPool
from lynx_jax.engine.host.sequence import Sequence


class Hit(NamedTuple):
  """The cached blocks at the start of a sequence.

  Attributes:
    blocks: in order of positions.
    keys: of these blocks.
    clean: how many of them, from the start, hold the model's own keys and values.
    awaited: whether a running sequence is about to publish the next clean block.
  """

  blocks: tuple[int, ...] = ()
  keys: tuple[bytes, ...] = ()
  clean: int = 0
  awaited: bool = False


class PrefixCache:
  """Finds blocks by the tokens of whole prefixes, and publishes them.

  A block is clean if prompts' chunks and exact rows alone wrote it and all blocks before it. Others carry the policy
  in their key, and an exact sequence never finds them.
  """

  def __init__(
    self,
    pool: BlockPool,
    *,
    block_size: int,
    policy: str = "",
    boundary: int = 1,
    weights: int = 0,
    short_prompt: int | None = None,
  ):
    """`short_prompt` as in `Limits`; hits end at a multiple of `boundary` blocks."""
    self._pool = pool
    self._size = block_size
    self._policy = policy
    self._boundary, self._short_prompt = boundary, short_prompt
    self.weights = weights
    self._promised: dict[bytes, Sequence] = {}

  def match(self, sequence: Sequence) -> Hit:
    """The cached blocks that `sequence` may read. At least one token is left to compute: it draws the next one."""
    if sequence.settings.prompt_logprobs is not None or sequence.settings.return_routing:
      return Hit()
    most = (len(sequence.tokens) - 1) // self._size
    blocks, keys = self._follow(most, lambda keys: self._clean_key(sequence, len(keys)))
    clean = len(blocks)
    awaited = clean < most and self._clean_key(sequence, clean) in self._promised
    if not sequence.settings.exact:
      blocks, keys = self._follow(most, lambda keys: self._adaptive_key(sequence, keys), blocks, keys)
    whole = len(blocks) // self._boundary * self._boundary
    return Hit(tuple(blocks[:whole]), tuple(keys[:whole]), min(clean, whole), awaited)

  def promise(self, sequence: Sequence) -> None:
    """Notes the clean blocks that `sequence`, just admitted, will publish.

    So prompts with the same beginning that arrive together compute it once.
    """
    if sequence.adaptive_from is None:
      for index in range(len(sequence.keys), len(sequence.tokens) // self._size):
        self._promised.setdefault(self._clean_key(sequence, index), sequence)

  def break_promises(self, sequence: Sequence) -> None:
    """Takes back what `sequence` will not publish after all."""
    for key in sequence.clean_keys[len(sequence.keys) :]:
      if self._promised.get(key) is sequence:
        del self._promised[key]

  def publish(self, sequence: Sequence, written: int) -> None:
    """Publishes the full blocks of the first `written` positions, all of whose tokens are known."""
    while (len(sequence.keys) + 1) * self._size <= written and not sequence.stale:
      index = len(sequence.keys)
      adaptive = sequence.adaptive_from is not None and sequence.adaptive_from < (index + 1) * self._size
      key = self._adaptive_key(sequence, sequence.keys) if adaptive else self._clean_key(sequence, index)
      sequence.keys.append(key)
      self._promised.pop(key, None)
      self._pool.publish(sequence.table[index], key)

  def withdraw(self, sequence: Sequence) -> None:
    """Hides all blocks of a sequence whose logits were not finite: one of them may be damaged."""
    self._pool.withdraw(sequence.table)

  def forget(self, weights: int) -> None:
    """Empties the cache: what is published from now on belongs to the weights of this version."""
    self._pool.withdraw_all()
    self._promised.clear()
    self.weights = weights

  def _follow(
    self, most: int, key_after: Callable[[list[bytes]], bytes], blocks: Iterable[int] = (), keys: Iterable[bytes] = ()
  ) -> tuple[list[int], list[bytes]]:
    """Goes on from `blocks` while the next block, whose key follows from the `keys` before, is there."""
    blocks, keys = list(blocks), list(keys)
    while len(blocks) < most:
      key = key_after(keys)
      block = self._pool.find(key)
      if block is None:
        break
      blocks.append(block)
      keys.append(key)
    return blocks, keys

  def _clean_key(self, sequence: Sequence, index: int) -> bytes:
    """The key of a block of the model's own; kept with the sequence, so that each is hashed once."""
    keys = sequence.clean_keys
    while len(keys) <= index:
      keys.append(self._key(sequence, keys))
    return keys[index]

  def _adaptive_key(self, sequence: Sequence, before: list[bytes]) -> bytes:
    return self._key(sequence, before, f"adaptive {self._policy}")

  def _key(self, sequence: Sequence, before: list[bytes], provenance: str = "") -> bytes:
    long = self._short_prompt is not None and len(sequence.request.prompt) > self._short_prompt
    parent = before[-1] if before else root_key(self.weights, sequence.request.cache_salt, long=long)
    start = len(before) * self._size
    return block_key(parent, sequence.tokens[start : start + self._size], provenance)
