"""The estimate beside published measurements, with its error.

OEA (arXiv 2511.02237) reports the MoE layer of Qwen3-30B-A3B on one H100 at batch 16, with the experts that were live.
Lynx v3 (arXiv 2411.08982) reports ratios of the median time a token on one H200 with vLLM, at batches of up to 16, but
not the experts that were live. Those are simulated: router scores are a share of popularity that all rows see, and
noise of a row's own. The share is set so that Qwen3's own routing touches the 48.8 experts that OEA measured; how far
it then misses OEA's other three counts is printed too. The scale of the scores is an assumption.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lynx_jax.estimate.roofline import GPUS, StepSize, moe_layer_us, step_size, step_time
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.released import RELEASED
from lynx_jax.routing import OEA, Lynx, RoutingPolicy, TopK, lynx_route

PEER_LAUNCHES_OF_EXPERTS = 10
"""Kernels of an MoE layer in SGLang or vLLM: norm, router, softmax and top-k, alignment, two products, sums."""
PEER_LAUNCHES_A_LAYER = 20
POPULARITY = 0.92
"""Standard deviation of an expert's popularity over that of a row's own noise."""
SCALE = 1.5
"""Standard deviation of router scores, in nats."""
BATCH, CONTEXT = 16, 1024

OEA_LAYER_US = {TopK(): (48.8, 175.7), OEA(5): (35.1, 136.0), OEA(4): (29.9, 120.9), OEA(3): (25.1, 106.8)}
LYNX_RATIOS: dict[str, tuple[RoutingPolicy, float, float]] = {
  "Qwen2-57B-A14B": (Lynx(3, 4), 1.25, 1.30),
  "Qwen3-30B-A3B": (Lynx(3, 2), 1.14, 1.22),
  "DeepSeek-Coder-V2-Lite": (Lynx(1.125, 2), 1.20, 1.22),
  "Mixtral-8x7B": (Lynx(0.7, 1), 1.09, 1.18),
}
_SIZES = {
  # MLA: queries 2048 x 3072, latent 2048 x 576 and 512 x 4096, output 2048 x 2048; two shared experts; one dense layer.
  "DeepSeek-Coder-V2-Lite": StepSize(
    layers=27, moe_layers=26, experts=64, top_k=6, expert=3 * 2048 * 1408,
    always=27 * (2048 * 3072 + 2048 * 576 + 512 * 4096 + 2048 * 2048)
    + 26 * (3 * 2048 * 2816 + 2048 * 64) + 3 * 2048 * 10944,
    head=102400 * 2048, kv_per_token=27 * 576, width=2048,
  ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
  """One published figure: what it is, the published range, the estimate, and its unit."""

  what: str
  low: float
  high: float
  estimate: float
  unit: str

  @property
  def error(self) -> float:
    """How far the estimate lies outside of the range, relative to the nearer end; 0 inside."""
    nearer = min(max(self.estimate, self.low), self.high)
    return self.estimate / nearer - 1


def size_of(name: str) -> StepSize:
  """Sizes of a released model, also of those whose checkpoints this library cannot read."""
  return _SIZES[name] if name in _SIZES else step_size(spec_from_config(RELEASED[name]))


def simulated_experts(size: StepSize, policy: RoutingPolicy, *, batch: int = BATCH, draws: int = 64) -> float:
  """The mean number of distinct experts that run under `policy`, for simulated router scores."""
  random = np.random.default_rng(0)
  popularity = POPULARITY * random.normal(size=(draws, 1, size.experts))
  scores = popularity + random.normal(size=(draws, batch, size.experts))
  logits = jnp.asarray(scores * SCALE / np.sqrt(1 + POPULARITY**2), jnp.float32)

  def active_experts(logits: jax.Array) -> jax.Array:
    return lynx_route(logits, size.top_k, policy=policy, implementation="reference").active.sum()

  return float(np.mean(jax.jit(jax.vmap(active_experts))(logits)))


def checks() -> list[Check]:
  """Every published figure beside its estimate."""
  qwen3, h100 = size_of("Qwen3-30B-A3B"), GPUS["h100"]
  found = []
  for policy, (active, measured) in OEA_LAYER_US.items():
    time = moe_layer_us(qwen3, h100, active=active, batch=BATCH, launches=PEER_LAUNCHES_OF_EXPERTS)
    what = f"OEA, Qwen3-30B-A3B, H100: MoE layer at {active} experts"
    found.append(Check(what=what, low=measured, high=measured, estimate=time, unit="us"))
    what = f"  experts of simulated scores, {policy}"
    found.append(Check(what=what, low=active, high=active, estimate=simulated_experts(qwen3, policy), unit="experts"))
  for name, (policy, low, high) in LYNX_RATIOS.items():
    size = size_of(name)
    own, kept = (simulated_experts(size, each) for each in (TopK(), policy))
    own_ms, kept_ms = (_peer_ms(size, active) for active in (own, kept))
    what = f"Lynx v3, {name}, H200: time a token, {own:.1f} -> {kept:.1f} experts (simulated)"
    found.append(Check(what=what, low=low, high=high, estimate=own_ms / kept_ms, unit="x"))
  return found


def _peer_ms(size: StepSize, active: float) -> float:
  launches = PEER_LAUNCHES_A_LAYER * size.layers
  return step_time(size, GPUS["h200"], active=active, batch=BATCH, context=CONTEXT, launches=launches).total
