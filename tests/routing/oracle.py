"""Every routing rule once more: slow, in plain Python, in exact arithmetic where the rule is exact.

Written from the rules, not from the JAX code, and sharing nothing with it but the policies' knobs.
"""

import dataclasses
import math

import numpy as np

from lynx_jax.routing import OEA, Auto, Budget, CountVote, Lynx, MassFloor, Prune, Router, TopK, XShare


def top(scores, count, among=None):
  """Indices of the `count` best scores, ties to the lowest index."""
  among = range(len(scores)) if among is None else among
  return sorted(among, key=lambda e: (-scores[e], e))[:count]


def softmax(row):
  """Softmax in float64."""
  powers = [math.exp(float(z) - float(max(row))) for z in row]
  return [power / math.fsum(powers) for power in powers]


def route(logits, top_k, policy, valid=None):
  """(ids, weights, active) of the whole rule under softmax routers.

  Weights are those of a renormalising router and of one that keeps the mass of its own top k.
  """
  ids, _, active = route_by(logits, top_k, policy, Router(), None, valid)
  weights = [route_by(logits, top_k, policy, Router(renormalize=flag), None, valid)[1] for flag in (True, False)]
  return ids, weights, active


def route_by(logits, top_k, policy, router, bias=None, valid=None):
  """(ids, weights, active) of the whole rule: keep set, guards, fill, remap, weights, invalid rows."""
  num_rows, num_experts = logits.shape
  valid = [True] * num_rows if valid is None else [bool(flag) for flag in valid]
  rows = {t: own_rule(logits[t], top_k, router, bias) for t in range(num_rows) if valid[t]}
  k = experts_run(policy, top_k)
  ids = own = {t: row.order[:k] for t, row in rows.items()}
  if not isinstance(policy, (TopK, Prune)) and len(rows) >= 2:
    keep = keep_set(policy, rows, top_k)
    popularity = [math.fsum(row.worth[e] for row in rows.values()) for e in range(num_experts)]
    keep |= set(top(popularity, max(0, k - len(keep)), among=set(range(num_experts)) - keep))
    if len(keep) < len(set().union(*own.values())):
      ids = {t: [e for e in row.order if e in keep][:k] for t, row in rows.items()}
      weights = {t: substitute_weights(row, ids[t], keep, router) for t, row in rows.items()}
  if ids is own:
    everything = set(range(num_experts))
    weights = {
      t: row.weights if k == top_k else substitute_weights(row, ids[t], everything, router) for t, row in rows.items()
    }
  active = sorted({e for row in ids.values() for e in row})
  idle = (active + [e for e in range(num_experts) if e not in active])[:k]
  all_ids = [ids[t] if valid[t] else idle for t in range(num_rows)]
  all_weights = [weights[t] if valid[t] else [0.0] * k for t in range(num_rows)]
  return np.array(all_ids), np.array(all_weights), np.isin(np.arange(num_experts), active)


@dataclasses.dataclass
class Row:
  """One row: router logits, experts in the model's order, logits that bins are of, worths, gates, own weights."""

  logits: list
  order: list
  bins_of: list
  worth: list
  gates: list
  weights: list


def own_rule(row, top_k, router, bias):
  """What the model itself does with one row of logits; choices in float32, weights in float64."""
  z, experts = [np.float32(value) for value in row], range(len(row))
  sigmoid = [np.float32(1 / (1 + np.exp(-value))) for value in z]
  gates = [1 / (1 + math.exp(-float(value))) for value in z] if router.scoring == "sigmoid" else softmax(z)
  choice = z if bias is None else [sigmoid[e] + np.float32(bias[e]) for e in experts]
  size = len(z) // router.groups
  groups = [range(g * size, (g + 1) * size) for g in range(router.groups)]
  summed = gates if bias is None else choice
  score = [
    max(choice[e] for e in group)
    if router.group_score == "max"
    else sum(sorted((summed[e] for e in group), reverse=True)[:2])
    for group in groups
  ]
  allowed = {e for g in top(score, router.groups_kept) for e in groups[g]}
  order = sorted(experts, key=lambda e: (e not in allowed, -choice[e], e))
  worth = [gate / math.fsum(gates) if e in allowed else 0.0 for e, gate in enumerate(gates)]
  bins_of = [z[e] if e in allowed else -np.inf for e in experts]
  if bias is not None:
    for place, e in enumerate(order[top_k:], top_k):
      worth[e] = min(worth[other] for other in order[: place + 1])
    beside = [min(max(float(choice[e] - np.float32(bias[order[0]])), 1.2e-38), 1 - 2.0**-24) for e in experts]
    bins_of = [np.float32(math.log(x / (1 - x))) if e in allowed else -np.inf for e, x in enumerate(beside)]
  weights = [gates[e] for e in order[:top_k]]
  if router.unit_weights:
    weights = [1.0] * top_k
  elif router.scoring == "sparsemixer":
    weights = mixed(z, order[:top_k], set(experts))
  elif router.renormalize:
    weights = [weight / math.fsum(weights) for weight in weights]
  return Row(z, order, bins_of, worth, gates, [weight * router.scale for weight in weights])


def mixed(z, ids, among):
  """SparseMixer's multipliers: the softmax of each among those left that lie within 2 % of it."""
  multipliers, left = [], set(among)
  for e in ids:
    close = [o for o in left if z[o] == z[e] or (z[e] - z[o]) / max(abs(z[o]), z[e]) <= np.float32(0.02)]
    multipliers.append(1 / math.fsum(math.exp(float(z[o]) - float(z[e])) for o in close))
    left.remove(e)
  return multipliers


def substitute_weights(row, ids, keep, router):
  """The model's rule inside `keep`, made to sum to what the model's own weights of the row sum to."""
  if router.unit_weights:
    return [1.0] * len(ids)
  parts = mixed(row.logits, ids, keep) if router.scoring == "sparsemixer" else [row.gates[e] for e in ids]
  return [part / math.fsum(parts) * math.fsum(row.weights) for part in parts]


def experts_run(policy, top_k):
  match policy:
    case Prune(k0):
      return min(k0, top_k)
    case Budget(inner, _):
      return experts_run(inner, top_k)
  return top_k


def keep_set(policy, rows, top_k):
  """The set S of one policy over the valid rows."""
  p = {t: row.worth for t, row in rows.items()}
  order = {t: row.order for t, row in rows.items()}
  num_experts = len(next(iter(p.values())))
  match policy:
    case TopK() | Prune():
      return set(range(num_experts))
    case Lynx(alpha, beta):
      return lynx({t: row.bins_of for t, row in rows.items()}, top_k, alpha, beta)
    case CountVote(keep):
      counts = [sum(e in row[:top_k] for row in order.values()) for e in range(num_experts)]
      return set(top(counts, keep))
    case OEA(k0):
      return {e for row in order.values() for e in row[: min(k0, top_k)]}
    case XShare(budget, k0):
      keep = {e for row in order.values() for e in row[: min(k0, top_k)]}
      sums = [math.fsum(p[t][e] for t in p) for e in range(num_experts)]
      return keep | set(top(sums, max(0, budget - len(keep)), among=set(range(num_experts)) - keep))
    case MassFloor(tau):
      return greedy_cover(p, top_k, set(range(num_experts)), tau, num_experts)
    case Auto(share):
      return worthwhile(p, {t: row.order[:top_k] for t, row in rows.items()}, top_k, share)
    case Budget(inner, max_active):
      keep = keep_set(inner, rows, top_k)
      k = experts_run(inner, top_k)
      return keep if len(keep) <= max_active else greedy_cover(p, k, keep, 1.0, max_active)
  raise TypeError(policy)


def worthwhile(p, own, k, share):
  """Add the expert that saves most while it saves `share` of the mean worth of an expert, all in float64."""
  w = {t: [x / math.fsum(row[e] for e in own[t]) for x in row] for t, row in p.items()}
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
  deepest = 2**24 // len(next(iter(z.values()))) - 1 if beta is None else beta

  def bin_of(value, best):
    # An expert that the row may not choose is ranked below all others, and gets the lowest bin's vote.
    return -deepest - 1 if value == -np.inf else max(-deepest, math.ceil(np.float32(alpha) * (value - best)))

  q = {t: [bin_of(value, max(row)) for value in row] for t, row in z.items()}
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
