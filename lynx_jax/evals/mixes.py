"""Which sequences share a batch: of one domain, of all domains, or as different as can be found."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from lynx_jax.models.decoder import run_causal
from lynx_jax.models.params import Params
from pallas_kernels.lynx_route.expert_sets import chosen_by_row

MIXES = ("mixed", "one-domain", "adversarial")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
  """Sequences of one length.

  Attributes:
    tokens: [N, L].
    domains: the kind of each.
  """

  tokens: Int32[np.ndarray, "N L"]
  domains: tuple[str, ...]

  def __post_init__(self) -> None:
    if len(self.domains) != len(self.tokens):
      raise ValueError(f"{len(self.tokens)} sequences and {len(self.domains)} domains: give one of each")


def cut(streams: dict[str, Int32[np.ndarray, "_"]], length: int) -> Windows:
  """Cuts each domain's stream of tokens into consecutive windows. A shorter rest at the end is dropped."""
  parts = {domain: stream[: len(stream) // length * length].reshape(-1, length) for domain, stream in streams.items()}
  domains = tuple(domain for domain, windows in parts.items() for _ in windows)
  if not domains:
    raise ValueError(f"no text is as long as a window of {length} tokens: give more, or a smaller --length")
  return Windows(tokens=np.concatenate(list(parts.values())).astype(np.int32), domains=domains)


def mixed(windows: Windows, batch: int, count: int, *, seed: int = 0) -> list[Int32[np.ndarray, "B"]]:
  """Indices of `count` batches of rows drawn from all domains. A row is in at most one batch."""
  order = np.random.default_rng(seed).permutation(len(windows.tokens)).astype(np.int32)
  return [order[at : at + batch] for at in range(0, len(order) - batch + 1, batch)][:count]


def one_domain(windows: Windows, batch: int, count: int, *, seed: int = 0) -> list[Int32[np.ndarray, "B"]]:
  """Indices of batches whose rows are of one domain. Batches take the domains in turn until their rows run out."""
  random = np.random.default_rng(seed)
  domains = np.array(windows.domains)
  pools = [random.permutation(np.flatnonzero(domains == domain)) for domain in dict.fromkeys(windows.domains)]
  cuts = [[pool[at : at + batch].astype(np.int32) for at in range(0, len(pool) - batch + 1, batch)] for pool in pools]
  turns = [batches[turn] for turn in range(max(map(len, cuts), default=0)) for batches in cuts if turn < len(batches)]
  return turns[:count]


def adversarial(
  windows: Windows, usage: Float[np.ndarray, "N U"], batch: int, count: int, *, seed: int = 0
) -> list[Int32[np.ndarray, "B"]]:
  """Indices of batches built greedily: the next row is the one whose experts the batch uses least.

  `usage` is `expert_usage`'s. The worst case for agreeing on few experts that these sequences allow.
  """
  random = np.random.default_rng(seed)
  free = np.ones(len(windows.tokens), bool)
  batches = []
  while free.sum() >= batch and len(batches) < count:
    chosen = [int(random.choice(np.flatnonzero(free)))]
    free[chosen] = False
    while len(chosen) < batch:
      shared = usage @ usage[chosen].sum(axis=0)
      chosen.append(int(np.argmin(np.where(free, shared, np.inf))))
      free[chosen[-1]] = False
    batches.append(np.array(chosen, np.int32))
  return batches


def expert_usage(params: Params, windows: Windows, *, rows: int = 16) -> Float[np.ndarray, "N U"]:
  """How often each sequence's own routing runs each expert of each layer, as unit vectors."""

  @jax.jit
  def usage(tokens: jax.Array) -> jax.Array:
    _, _, traces = run_causal(params.decoder, tokens, jnp.full(tokens.shape[:1], tokens.shape[1], jnp.int32))
    layers = [chosen_by_row(trace.routing.ids, trace.logits.shape[1]) for trace in traces]
    counts = [layer.reshape(*tokens.shape, -1).sum(axis=1) for layer in layers]
    return jnp.concatenate(counts, axis=1).astype(jnp.float32)

  tokens = windows.tokens
  padded = np.resize(tokens, (-(-len(tokens) // rows) * rows, tokens.shape[1]))
  counts = np.concatenate([np.asarray(usage(jnp.asarray(part))) for part in np.split(padded, len(padded) // rows)])
  counts = counts[: len(tokens)]
  return counts / np.linalg.norm(counts, axis=1, keepdims=True)


class BatchMaker:
  """Chooses which windows share a batch; runs the model over them once, and only if a mix asks for it."""

  def __init__(self, params: Params, windows: Windows) -> None:
    self._params, self._windows = params, windows

  @functools.cached_property
  def _usage(self) -> Float[np.ndarray, "N U"]:
    return expert_usage(self._params, self._windows)

  def indices(self, mix: str, batch: int, count: int, *, seed: int = 0) -> list[Int32[np.ndarray, "B"]]:
    """Rows of up to `count` batches of a mix of `MIXES`."""
    if mix == "mixed":
      return mixed(self._windows, batch, count, seed=seed)
    if mix == "one-domain":
      return one_domain(self._windows, batch, count, seed=seed)
    return adversarial(self._windows, self._usage, batch, count, seed=seed)


def describe(windows: Windows) -> str:
  """How many sequences of each domain there are."""
  names: Sequence[str] = list(dict.fromkeys(windows.domains))
  return ", ".join(f"{name} {windows.domains.count(name)}" for name in names)
