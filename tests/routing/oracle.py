"""Every routing rule once more: slow, in plain Python, in exact arithmetic where the rule is exact.

Written from the rules, not from the JAX code, and sharing nothing with it but the policies' knobs.
"""

import math

import numpy as np

from lynx_jax.routing import OEA, Auto, Budget, CountVote, Lynx, MassFloor, Prune, TopK, XShare


def top(scores, count, among=None):
  """Indices of the `count` best scores, ties to the lowest index."""
  among = range(len(scores)) if among is None else among
  return sorted(among, key=lambda e: (-scores[e], e))[:count]


def softmax(row):
  """Softmax in float64."""
  powers = [math.exp(float(z) - float(max(row))) for z in row]
  return [power / math.fsum(powers) for power in powers]


def route(logits, top_k, policy, valid=None):
  """(ids, weights, active) of the whole rule: keep set, guards, fill, remap, weights, invalid rows.

  Weights are those of a renormalising router and of one that keeps the mass of its own top k.
  """
  num_rows, num_experts = logits.shape
  valid = [True] * num_rows if valid is None else [bool(flag) for flag in valid]
  z = {t: [np.float32(value) for value in logits[t]] for t in range(num_rows) if valid[t]}
  p = {t: softmax(row) for t, row in z.items()}
  k = experts_run(policy, top_k)
  own = {t: top(row, k) for t, row in z.items()}
  ids = own
  if not isinstance(policy, (TopK, Prune)) and len(z) >= 2:
    keep = keep_set(policy, z, p, top_k)
    popularity = [math.fsum(p[t][e] for t in p) for e in range(num_experts)]
    keep |= set(top(popularity, max(0, k - len(keep)), among=set(range(num_experts)) - keep))
    if len(keep) < len(set().union(*own.values())):
      ids = {t: top(row, k, among=keep) for t, row in z.items()}
  active = sorted({e for row in ids.values() for e in row})
  idle = (active + [e for e in range(num_experts) if e not in active])[:k]
  all_ids = [ids[t] if valid[t] else idle for t in range(num_rows)]
  shares = np.array([shares_of(p[t], ids[t]) if valid[t] else [0.0] * k for t in range(num_rows)])
  masses = np.array([math.fsum(p[t][e] for e in top(p[t], top_k)) if valid[t] else 0 for t in range(num_rows)])
  return np.array(all_ids), (shares, shares * masses[:, None]), np.isin(np.arange(num_experts), active)


def shares_of(p, ids):
  """Probabilities of the chosen experts, made to sum to 1."""
  total = math.fsum(p[e] for e in ids)
  return [p[e] / total for e in ids]


def experts_run(policy, top_k):
  match policy:
    case Prune(k0):
      return min(k0, top_k)
    case Budget(inner, _):
      return experts_run(inner, top_k)
  return top_k


def keep_set(policy, z, p, top_k):
  """The set S of one policy; z and p map each valid row to its logits and probabilities."""
  num_experts = len(next(iter(z.values())))
  match policy:
    case TopK() | Prune():
      return set(range(num_experts))
    case Lynx(alpha, beta):
      return lynx(z, top_k, alpha, beta)
    case CountVote(keep):
      counts = [sum(e in top(row, top_k) for row in z.values()) for e in range(num_experts)]
      return set(top(counts, keep))
    case OEA(k0):
      return {e for row in z.values() for e in top(row, min(k0, top_k))}
    case XShare(budget, k0):
      keep = {e for row in z.values() for e in top(row, min(k0, top_k))}
      sums = [math.fsum(p[t][e] for t in p) for e in range(num_experts)]
      return keep | set(top(sums, max(0, budget - len(keep)), among=set(range(num_experts)) - keep))
    case MassFloor(tau):
      return greedy_cover(p, top_k, set(range(num_experts)), tau, num_experts)
    case Auto(share):
      return worthwhile(p, top_k, share)
    case Budget(inner, max_active):
      keep = keep_set(inner, z, p, top_k)
      k = experts_run(inner, top_k)
      return keep if len(keep) <= max_active else greedy_cover(p, k, keep, 1.0, max_active)
  raise TypeError(policy)


def worthwhile(p, k, share):
  """Add the expert that saves most while it saves `share` of the mean worth of an expert, all in float64."""
  w = {t: [x / math.fsum(row[e] for e in top(row, k)) for x in row] for t, row in p.items()}
  own = {t: top(row, k) for t, row in w.items()}
  experts, keep = set(range(len(next(iter(w.values()))))), set()
  worth = math.fsum(w[t][e] ** 2 for t in w for e in own[t])
  price = share * worth / len({e for ids in own.values() for e in ids})

  def loss(t, kept):
    retained = math.fsum(sorted((w[t][e] for e in kept), reverse=True)[:k])
    return math.fsum(w[t][e] ** 2 for e in own[t] if e not in kept) + (1 - retained) ** 2

  while keep != experts:
    saved = {e: math.fsum(loss(t, keep) - loss(t, keep | {e}) for t in w) for e in experts - keep}
    best = min(saved, key=lambda e: (-round(saved[e], 7), e))
    if saved[best] < max(price, 1e-9):
      break
    keep.add(best)
  return keep


def lynx(z, top_k, alpha, beta):
  """Bins in float32; votes B**q, scores and ranks m in integers, all times B**lowest (and m times B)."""
  rows, lowest = len(z), 31 if beta is None else min(beta, 31)
  q = {t: [math.ceil(np.float32(alpha) * (value - max(row))) for value in row] for t, row in z.items()}
  if beta is not None:
    q = {t: [max(-beta, bin_) for bin_ in row] for t, row in q.items()}
  h = {t: [rows ** (max(bin_, -lowest) + lowest) for bin_ in row] for t, row in q.items()}
  score = [sum(column) for column in zip(*h.values(), strict=True)]
  keep = set()
  for t in z:
    m = [q[t][e] * rows * rows**lowest + score[e] - h[t][e] for e in range(len(score))]
    keep |= set(top(m, top_k))
  return keep


def greedy_cover(p, k, candidates, tau, limit):
  """Add the expert of largest gain until each row retains tau of its own mass, or `limit` are in.

  In float64 with correctly rounded sums, so that equal gains compare equal.
  """
  floor = {t: tau * math.fsum(row[e] for e in top(row, k)) for t, row in p.items()}
  keep = set()

  def best(t, experts):
    return sorted((p[t][e] for e in experts), reverse=True)[:k] + [0.0] * (k - len(experts))

  while len(keep) < limit:
    deficit = {t: max(0.0, floor[t] - math.fsum(best(t, keep))) for t in p}
    if not any(deficit.values()):
      break
    worst = {t: min(best(t, keep)) for t in p}
    gain = {e: math.fsum(min(deficit[t], max(0.0, p[t][e] - worst[t])) for t in p) for e in candidates - keep}
    keep.add(min(gain, key=lambda e: (-gain[e], e)))
  return keep
