"""Compares the cost of moving tokens whose router is sure with that of moving tokens whose router is not."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from benchmarks.figures.plot import drawn
from lynx_jax.evals.decoding import Texts, own_hidden, route_by_step, whole_rows
from lynx_jax.evals.faithful import compare_scores
from lynx_jax.models.decoder import run_causal
from lynx_jax.models.params import Params
from lynx_jax.routing import OEA, CountVote, Router, RoutingPolicy, TiledRouting, lynx_route

GROUPS = ("sure", "unsure")


def measure_confidence(params: Params, batches: Sequence[Int32[np.ndarray, "B L"]]) -> list[dict[str, Any]]:
  """Measures divergence and agreement when only half of each step's tokens, by top gate, move into a set of experts.

  The sets are of two kinds. One holds every token's best experts, so a token keeps what it is surest of. The other is
  chosen by counting votes, and may leave out a token's best expert.
  """
  moe = params.spec.moe_specs[0]
  sizes = sorted({max(moe.top_k, round(moe.experts * share)) for share in (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)})
  sets = [("own", own, OEA(own)) for own in range(1, moe.top_k)] + [("votes", size, CountVote(size)) for size in sizes]
  rows = []
  for kind, keep, policy in sets:
    for group in GROUPS:
      sums = sum(
        np.array(_costs(params, jnp.asarray(tokens), policy=policy, sure=group == "sure")) for tokens in batches
      )
      tokens, divergence, agreement = np.asarray(sums).tolist()
      rows.append({
        "set": kind, "keep": keep, "group": group, "divergence": divergence / tokens, "agreement": agreement / tokens,
      })  # fmt: skip
  return rows


@functools.partial(jax.jit, static_argnames=("policy", "sure"))
def _costs(params: Params, tokens: jax.Array, *, policy: RoutingPolicy, sure: bool) -> tuple[jax.Array, ...]:
  texts = whole_rows(tokens)
  route = functools.partial(_route_half, policy=policy, sure=sure, texts=texts)
  hidden, _, _ = run_causal(params.decoder, texts.inputs, texts.lengths - 1, route=route)
  _, _, divergence, agreement = compare_scores(params, own_hidden(params, texts), hidden, texts)
  return jnp.sum(texts.judged).astype(jnp.float32), divergence, agreement


def _route_half(
  logits: jax.Array,
  top_k: int,
  /,
  *,
  policy: RoutingPolicy,
  sure: bool,
  texts: Texts,
  router: Router,
  valid: jax.Array,
  selection_bias: jax.Array | None = None,
) -> TiledRouting:
  """Applies the policy to the half of each step's rows with the larger (or smaller) top gate, and to no others."""
  rule: dict[str, Any] = {"router": router, "valid": valid, "selection_bias": selection_bias}
  own = lynx_route(logits, top_k, implementation="reference", **rule)
  moved = route_by_step(logits, top_k, policy=policy, texts=texts, **rule)
  top_gate = jnp.max(jax.nn.softmax(logits.astype(jnp.float32), axis=-1), axis=-1).reshape(texts.inputs.shape)
  larger = (top_gate >= jnp.median(top_gate, axis=0, keepdims=True)).reshape(-1, 1)
  chosen = larger if sure else ~larger
  ids, weights = jnp.where(chosen, moved.ids, own.ids), jnp.where(chosen, moved.weights, own.weights)
  return TiledRouting(ids, weights, own.active)


def draw_confidence(rows: list[dict[str, Any]], path: Path) -> None:
  """Divergence of both halves: where the set holds every token's best experts, and where votes choose it."""
  with drawn(path, panels=2) as panels:
    for axes, kind, label in (
      (panels[0], "own", "best experts of every token that the set holds"),
      (panels[1], "votes", "experts kept, chosen by votes"),
    ):
      for group, colour in zip(GROUPS, ("tab:red", "tab:blue"), strict=True):
        of = [row for row in rows if (row["set"], row["group"]) == (kind, group)]
        axes.plot(
          [row["keep"] for row in of], [row["divergence"] for row in of], "o-", color=colour,
          label=f"{group} half moved",
        )  # fmt: skip
      axes.set(xlabel=label, ylabel="KL from the model's own routing, nats")
      axes.set_yscale("log")
      axes.legend()
    panels[0].set_xticks(sorted({row["keep"] for row in rows if row["set"] == "own"}))
