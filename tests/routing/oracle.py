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


@dataclasses.dataclass
class Terms:
  """On what terms rows and experts enter a keep set.

  Attributes:
    say: weight of each voting row, relative to the largest, in whole 256ths of it.
    cost: cost of each expert, relative to the dearest.
    free: experts that are read anyway.
  """

  say: dict
  cost: list
  free: set

  def price(self, experts):
    """What reading `experts` costs."""
    return math.fsum(self.cost[e] for e in experts)


def terms_of(rows, own, weight, cost, num_experts, top_k):
  """The `Terms` of a batch: its voting rows are the keys of `say`."""
  adaptive = [t for t in rows if own is None or not own[t]]
  free = {e for t, row in rows.items() if t not in adaptive for e in row.order[:top_k]}
  say = dict.fromkeys(adaptive, 1.0)
  if weight is not None and any(weight[t] > 0 for t in adaptive):
    largest = max(float(weight[t]) for t in adaptive)
    say = {t: round(max(0.0, float(weight[t])) / largest * 256) / 256 for t in adaptive}
  dearest = 1.0 if cost is None else float(max(cost))
  cost = [1.0] * num_experts if cost is None else [float(c) / dearest for c in cost]
  return Terms({t: value for t, value in say.items() if value > 0}, cost, free)


def route_by(logits, top_k, policy, router, bias=None, valid=None, *, own=None, weight=None, cost=None, limit=None):
  """(ids, weights, active) of the whole rule: keep set, limit, fill, guard, remap, weights, invalid rows.

  Rows in `own` run their own experts. The others take theirs from inside the keep set, which the voting rows choose
  together and to which the experts of `own` rows belong. All rows run their own where the set costs no less.
  """
  num_rows, num_experts = logits.shape
  valid = [True] * num_rows if valid is None else [bool(flag) for flag in valid]
  rows = {t: own_rule(logits[t], top_k, router, bias) for t in range(num_rows) if valid[t]}
  terms = terms_of(rows, own, weight, cost, num_experts, top_k)
  k = experts_run(policy, top_k)
  own_ids = {t: row.order[:k] for t, row in rows.items()}
  everything = set(range(num_experts))
  own_weights = {
    t: row.weights if k == top_k else substitute_weights(row, own_ids[t], everything, router) for t, row in rows.items()
  }
  ids, weights = own_ids, own_weights
  if (limit is not None or not isinstance(policy, (TopK, Prune))) and terms.say and len(rows) >= 2:
    voters = {t: rows[t] for t in terms.say}
    keep = keep_set(policy, voters, top_k, terms) | terms.free
    if limit is not None:
      keep = within(voters, k, keep, limit, terms)
    keep = filled(keep, voters, k, terms)
    if terms.price(keep) < terms.price(set().union(*own_ids.values())):
      moved = [t for t in rows if own is None or not own[t]]
      ids = own_ids | {t: [e for e in rows[t].order if e in keep][:k] for t in moved}
      weights = own_weights | {t: substitute_weights(rows[t], ids[t], keep, router) for t in moved}
  active = sorted({e for row in ids.values() for e in row})
  idle = (active + [e for e in range(num_experts) if e not in active])[:k]
  all_ids = [ids[t] if valid[t] else idle for t in range(num_rows)]
  all_weights = [weights[t] if valid[t] else [0.0] * k for t in range(num_rows)]
  return np.array(all_ids), np.array(all_weights), np.isin(np.arange(num_experts), active)


def filled(keep, rows, k, terms):
  """`keep` with the experts of largest summed worth per cost added until it holds `k`."""
  popular = summed(rows, terms)
  per_cost = [popular[e] / terms.cost[e] for e in range(len(popular))]
  return keep | set(top(per_cost, max(0, k - len(keep)), among=set(range(len(popular))) - keep))


def summed(rows, terms):
  """The worth of each expert, summed over voting rows by their say."""
  return [math.fsum(terms.say[t] * row.worth[e] for t, row in rows.items()) for e in range(len(terms.cost))]


def filled_to(keep, size, values, terms):
  """`keep` with experts of largest value per cost added while all together, but for free ones, cost at most `size`."""
  keep, per_cost = set(keep), [value / cost for value, cost in zip(values, terms.cost, strict=True)]
  paid = terms.price(keep - terms.free)
  for e in top(per_cost, len(values), among=set(range(len(values))) - keep - terms.free):
    paid += terms.cost[e]
    if paid > size:
      break
    keep.add(e)
  return keep


def within(rows, k, keep, limit, terms):
  """`keep` and the free experts if they cost at most `limit`, else the part of them that retains most mass."""
  keep = keep | terms.free
  worths = {t: row.worth for t, row in rows.items()}
  return keep if terms.price(keep) <= limit else greedy_cover(worths, k, keep, 1.0, limit, terms)


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


def keep_set(policy, rows, top_k, terms):
  """The set S of one policy over the voting rows."""
  p = {t: row.worth for t, row in rows.items()}
  order = {t: row.order for t, row in rows.items()}
  num_experts = len(terms.cost)
  match policy:
    case TopK() | Prune():
      return set(range(num_experts))
    case Lynx(alpha, beta):
      return lynx({t: row.bins_of for t, row in rows.items()}, top_k, alpha, beta, terms.say)
    case CountVote(keep):
      counts = [sum(terms.say[t] for t, row in order.items() if e in row[:top_k]) for e in range(num_experts)]
      return filled_to(set(), keep, counts, terms)
    case OEA(k0):
      return {e for row in order.values() for e in row[: min(k0, top_k)]}
    case XShare(budget, k0):
      return filled_to({e for row in order.values() for e in row[: min(k0, top_k)]}, budget, summed(rows, terms), terms)
    case MassFloor(tau):
      return greedy_cover(p, top_k, set(range(num_experts)), tau, math.inf, terms)
    case Auto(share):
      return worthwhile(p, {t: row.order[:top_k] for t, row in rows.items()}, top_k, share, terms)
    case Budget(inner, max_active):
      return within(rows, experts_run(inner, top_k), keep_set(inner, rows, top_k, terms), max_active, terms)
  raise TypeError(policy)


def worthwhile(p, own, k, share, terms):
  """Add the expert that saves most per cost, while it saves `share` of the mean worth of an expert, all in float64."""
  w = {t: [x / math.fsum(row[e] for e in own[t]) for x in row] for t, row in p.items()}
  experts, keep = set(range(len(terms.cost))), set(terms.free)
  worth = math.fsum(terms.say[t] * w[t][e] ** 2 for t in w for e in own[t])
  price = share * worth / terms.price({e for ids in own.values() for e in ids})

  def loss(t, kept):
    retained = math.fsum(sorted((w[t][e] for e in kept), reverse=True)[:k])
    return terms.say[t] * (math.fsum(w[t][e] ** 2 for e in own[t] if e not in kept) + (1 - retained) ** 2)

  while keep != experts:
    saved = {e: math.fsum(loss(t, keep) - loss(t, keep | {e}) for t in w) for e in experts - keep}
    best = min(saved, key=lambda e: (-round(saved[e] / terms.cost[e], 7), e))
    if saved[best] < max(price * terms.cost[best], 1e-9):
      break
    keep.add(best)
  return keep


def lynx(z, top_k, alpha, beta, say):
  """Bins in float32; votes B**q, scores and ranks m in integers, all times B**lowest (and m times B).

  A row whose say is a 256th of a whole one votes as one row; others as that many. Where all have the same say, each
  votes once.
  """
  votes = {t: 1 if len(set(say.values())) == 1 else round(256 * say[t]) for t in z}
  rows, lowest = sum(votes.values()), 31 if beta is None else min(beta, 31)
  deepest = 2**24 // len(next(iter(z.values()))) - 1 if beta is None else beta

  def bin_of(value, best):
    # An expert that the row may not choose is ranked below all others, and gets the lowest bin's vote.
    return -deepest - 1 if value == -np.inf else max(-deepest, math.ceil(np.float32(alpha) * (value - best)))

  q = {t: [bin_of(value, max(row)) for value in row] for t, row in z.items()}
  h = {t: [rows ** (max(bin_, -lowest) + lowest) for bin_ in row] for t, row in q.items()}
  score = [sum(votes[t] * h[t][e] for t in z) for e in range(len(next(iter(h.values()))))]
  keep = set()
  for t in z:
    m = [q[t][e] * rows * rows**lowest + score[e] - h[t][e] for e in range(len(score))]
    keep |= set(top(m, top_k))
  return keep


def greedy_cover(p, k, candidates, tau, limit, terms):
  """Add the expert of largest gain per cost until each row retains tau of its own mass, or no other fits `limit`.

  In float64 with correctly rounded sums, so that equal gains compare equal.
  """
  floor = {t: tau * math.fsum(row[e] for e in top(row, k)) for t, row in p.items()}
  keep = set(terms.free)

  def best(t, experts):
    return sorted((p[t][e] for e in experts), reverse=True)[:k] + [0.0] * (k - len(experts))

  while open_ := {e for e in candidates - keep if terms.price(keep | {e}) <= limit}:
    deficit = {t: max(0.0, floor[t] - math.fsum(best(t, keep))) for t in p}
    if not any(deficit.values()):
      break
    worst = {t: min(best(t, keep)) for t in p}
    gain = {
      e: math.fsum(terms.say[t] * min(deficit[t], max(0.0, p[t][e] - worst[t])) for t in p) / terms.cost[e]
      for e in open_
    }
    keep.add(min(gain, key=lambda e: (-gain[e], e)))
  return keep
