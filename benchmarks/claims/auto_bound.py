"""Measures how much of its bound `Auto` uses: each step's and layer's loss, divided by what its docstring promises."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32

from lynx_jax.evals.decoding import decoded_hidden, whole_rows
from lynx_jax.models.params import Params
from lynx_jax.routing import Auto, Router
from pallas_kernels.dims import ExpertMask, RouterLogits
from pallas_kernels.lynx_route import score_rows
from pallas_kernels.lynx_route.expert_sets import chosen_by_row, union_of_rows


class Spent(NamedTuple):
  """One entry a layer and step.

  Attributes:
    loss: mean over rows of the squared weights of a row's own experts that are not read, plus the square of the mass
      that is lost with them after substitutes have brought theirs.
    allowed: share * L / D * mean |w|**2, where the model's own routing reads D experts and L of them are left out.
    saved: L over D.
  """

  loss: Float[np.ndarray, "n"]
  allowed: Float[np.ndarray, "n"]
  saved: Float[np.ndarray, "n"]

  @property
  def shares(self) -> Float[np.ndarray, "n"]:
    """Loss divided by allowance, for the layers and steps where something is left out."""
    some = self.allowed > 0
    return self.loss[some] / self.allowed[some]


def spent_by_auto(params: Params, batches: Sequence[Int32[np.ndarray, "B L"]], policy: Auto) -> Spent:
  """Measures what `policy` loses at every decode step and layer; each batch decodes on its own."""
  found = [jax.device_get(_spent(params, jnp.asarray(tokens), policy=policy)) for tokens in batches]
  return Spent(*(np.concatenate([part.ravel() for part in parts]) for parts in zip(*found, strict=True)))


@functools.partial(jax.jit, static_argnames="policy")
def _spent(params: Params, tokens: Int32[Array, "B L"], *, policy: Auto) -> tuple[Float32[Array, "N P"], ...]:
  texts = whole_rows(tokens)
  _, traces = decoded_hidden(params, texts, policy)
  rows, steps = texts.judged.shape
  figures = []
  for trace in traces:
    experts = trace.logits.shape[1]
    read = jax.nn.one_hot(trace.routing.ids, experts, dtype=jnp.bool_).any(axis=1)
    step = functools.partial(
      _step, top_k=trace.top_k, router=trace.router, selection_bias=trace.selection_bias, share=policy.share
    )
    by_step = jax.vmap(step, in_axes=1)
    figures.append(by_step(trace.logits.reshape(rows, steps, -1), read.reshape(rows, steps, -1)))
  loss, allowed, saved = (jnp.stack(part) for part in zip(*figures, strict=True))
  return loss, allowed, saved


def _step(
  logits: RouterLogits, read_TE: Bool[Array, "T E"], *, top_k: int, router: Router, selection_bias: Any, share: float
) -> tuple[Float32[Array, ""], ...]:
  """Returns loss, allowance and the share of experts left out, for one step of one layer. Uses only what was read."""
  experts, valid = logits.shape[1], jnp.ones(logits.shape[0], bool)
  scores = score_rows(logits, top_k, top_k, valid, router, selection_bias)
  weight_TE = scores.worth / scores.own_mass[:, None]
  own_TE = chosen_by_row(scores.ids, experts)
  kept_E: ExpertMask = read_TE.any(axis=0)
  kept_TE = kept_E[None, :]
  lost_T = jnp.sum(jnp.where(own_TE & ~kept_TE, jnp.square(weight_TE), 0.0), axis=1)
  retained_T = jnp.sum(jax.lax.top_k(jnp.where(kept_TE, weight_TE, 0.0), top_k)[0], axis=1)
  loss = jnp.mean(lost_T + jnp.square(1.0 - retained_T))
  own_E = union_of_rows(scores.ids, valid, experts)
  saved = jnp.sum(own_E & ~kept_E) / jnp.sum(own_E)
  worth = jnp.mean(jnp.sum(jnp.where(own_TE, jnp.square(weight_TE), 0.0), axis=1))
  return loss, share * saved * worth, saved
