"""Names of cached blocks: a hash of all the tokens up to the block's end, and of what else its contents depend on.

SHA-256, because a key that somebody can make collide hands one user another's cache; tokens are not compared.
"""

import array
import hashlib
from collections.abc import Sequence


def root_key(weights: int, salt: str, *, long: bool = False) -> bytes:
  """The key before the first block: blocks of other weights or another salt, or of a prompt past the length at which
  the model's rotation changes (`long`) and one before it, never match."""
  return hashlib.sha256(f"{weights}\0{salt}\0{long}".encode(errors="surrogatepass")).digest()


def block_key(parent: bytes, tokens: Sequence[int], provenance: str = "") -> bytes:
  """The key of a full block.

  Args:
    parent: key of the block before, or the root's; so the key stands for the whole prefix.
    tokens: of the block.
    provenance: "" for keys and values that are the model's own, else the policy that wrote some of the prefix.
  """
  return hashlib.sha256(parent + array.array("I", tokens).tobytes() + provenance.encode()).digest()
