"""Lynx: the batch keeps the experts that its tokens rank highest by affinity bin, then by popularity.

arXiv 2411.08982, "affinity binning". A row puts every expert in a bin by how far it lies below the row's
top expert, q = max(-beta, ceil(alpha * (z - max z))). With B valid rows, a row's vote for an expert is B**q.
A row ranks experts by m = q + (votes of the other rows) / B: by its own bin, and inside a bin by how popular
they are in the batch. The kept experts are the union of every row's top k by m.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Float32, Int32

from pallas_kernels.checks import number_fields, whole_fields
from pallas_kernels.dims import Array, ExpertMask, RowMask
from pallas_kernels.lynx_route.expert_sets import union_of_rows
from pallas_kernels.lynx_route.policy import MOST, RoutingPolicy, named_policy
from pallas_kernels.lynx_route.scores import LOWEST, Scores
from pallas_kernels.lynx_route.terms import WHOLE_SAY

# Bins from -31 down cast the same vote.
VOTE_BINS = 32


@named_policy("lynx")
@dataclass(frozen=True, slots=True)
class Lynx(RoutingPolicy):
  """Affinity binning with the published knobs, one pair per model, the same in every layer.

  Published pairs (alpha, beta): Mixtral-8x7B (0.7, 1), Mixtral-8x22B (1, 1), Qwen2-57B-A14B (3, 4),
  Qwen3-30B-A3B and Qwen3-235B (3, 2), DeepSeek-Coder-V2 (1.125, 2), gpt-oss-120b (3, 2).

  Attributes:
    alpha: bins per nat below the top expert. An expert is sure to stay a token's first if it leads by more
      than 1/alpha nats.
    beta: the lowest bin is -beta; experts further down differ only in popularity. None: no lowest bin. Bins
      from -31 down cast the same vote.
  """

  alpha: float | int  # both, as a run-time type checker does not let an int pass for a float
  beta: int | None

  def __post_init__(self) -> None:
    number_fields(self, "alpha", above=0, most=1e6, remedy="published values lie between 0.7 and 3")
    if self.beta is not None:
      remedy = "published values lie between 1 and 4, None is no lowest bin, and 0 would put all in one bin"
      whole_fields(self, "beta", least=1, most=MOST, remedy=remedy)

  def keep_set(self, scores: Scores) -> ExpertMask:
    """The union over valid rows of the top k experts by bin, then popularity, then lowest index."""
    num_experts = scores.num_experts
    bins_TE = affinity_bins(scores.logits, self.alpha, self.beta)
    rank_E = popularity_ranks(bins_TE, scores.valid, counted_bins(self.beta) + 1, scores.terms.say)
    # float32 because top_k of integers is a full sort on a CPU; affinity_bins keeps the keys exact in it.
    keys_TE = bins_TE * num_experts + rank_E.astype(jnp.float32)[None, :]
    _, ids_TK = jax.lax.top_k(keys_TE, scores.experts_per_token)
    return union_of_rows(ids_TK, scores.valid, num_experts)


def lowest_bin(beta: int | None, experts: int) -> int:
  """How far down bins reach, such that a bin times E plus a rank below E is exact in float32."""
  deepest = 2**24 // experts - 1
  return deepest if beta is None else min(beta, deepest)


def counted_bins(beta: int | None) -> int:
  """How many bins, from the best on, have their votes counted: all but the last, which follows from the others."""
  return (VOTE_BINS if beta is None else min(VOTE_BINS, beta + 1)) - 1


def affinity_bins(logits_TE: Float32[Array, "T E"], alpha: float | int, beta: int | None) -> Float32[Array, "T E"]:
  """Bin of every expert for every row: 0 for the top expert, then -1 for each 1/alpha nats, at least -beta.

  An expert that the row may not choose is one bin below the lowest, so that popularity never makes up for that; its
  vote counts as the lowest bin's. Bins are whole numbers b with |b| * E <= 2**24, so that b * E plus a rank below E is
  exact in float32.
  """
  lowest = lowest_bin(beta, logits_TE.shape[1])
  below_top_TE = logits_TE - jnp.max(logits_TE, axis=-1, keepdims=True)
  bins_TE = jnp.maximum(jnp.ceil(alpha * below_top_TE), -float(lowest))
  return jnp.where(logits_TE <= LOWEST, -float(lowest + 1), bins_TE)


def popularity_ranks(
  bins_TE: Float32[Array, "T E"], valid_T: RowMask, depth: int, say_T: Int32[Array, "T"] | None = None
) -> Int32[Array, "E"]:
  """For each expert, how many experts have a strictly lower score sum_t B**q[t, e], in exact arithmetic.

  Scores order as the counts (c_0, c_1, ...) of valid rows that put the expert in bin 0, -1, ..., compared
  lexicographically. Let c and d first differ at bin j, c_j > d_j, and let R <= B rows be left there. What c
  gains at bin j, (c_j - d_j) * B**-j, is at least B**-j; what d can still gain below is at most
  (R - d_j) * B**-(j+1) <= B**-j. Both are equalities only if d puts all B rows in bin j+1 while c_j = 1;
  the other B - 1 >= 1 rows of c then still vote, so c is strictly ahead. Each row votes once for each
  expert, whence the same R, and why the last count need not be compared.

  With says, a row counts as many times as its say: the order is that of the says summed by bin, compared
  lexicographically. Equal says give the order of the counts.

  Rows rank experts by the votes of the others. Inside a row's own bin its own vote is the same for every
  expert, so leaving it in changes no order.
  """
  depth_J = jnp.arange(depth - 1, dtype=jnp.float32)
  bins_of_valid_TE = jnp.where(valid_T[:, None], -bins_TE, float(depth))
  votes_JTE = bins_of_valid_TE[None] == depth_J[:, None, None]
  base = bins_TE.shape[0] + 1
  if say_T is not None:
    votes_JTE, base = jnp.where(votes_JTE, say_T[None, :, None], 0), bins_TE.shape[0] * WHOLE_SAY + 1
  counts_JE = jnp.sum(votes_JTE, axis=1, dtype=jnp.int32)
  fewer_EE = functools.reduce(
    lambda lower, word: (word[:, None] < word[None, :]) | ((word[:, None] == word[None, :]) & lower),
    pack_digits(counts_JE, base=base)[::-1],
    jnp.zeros((bins_TE.shape[1],) * 2, bool),
  )
  return jnp.sum(fewer_EE, axis=0, dtype=jnp.int32)


def pack_digits(digits_JE: Int32[Array, "J E"], base: int) -> list[Int32[Array, "E"]]:
  """Digits below `base`, most significant first, in as few int32 words as hold them, in the same order."""
  per_word = 1
  while base ** (per_word + 1) <= 2**31:
    per_word += 1
  words = []
  for start in range(0, digits_JE.shape[0], per_word):
    digits = digits_JE[start : start + per_word]
    place = jnp.array([base**power for power in range(len(digits) - 1, -1, -1)], jnp.int32)
    words.append(jnp.sum(digits * place[:, None], axis=0, dtype=jnp.int32))
  return words
