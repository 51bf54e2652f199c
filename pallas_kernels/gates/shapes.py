"""Sizes of released models: what kernels are compiled for and tuned to."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
  """A model's sizes, by its published configuration.

  Attributes:
    name: as people say it.
    width: D, the residual stream.
    expert_width: F.
    experts: E.
    top_k: experts a token runs.
    heads: query heads.
    kv_heads: key and value heads.
    head_dim: H.
    renormalize: whether a token's expert weights sum to 1.
    window: positions that sliding-window layers see; None where all see everything.
    sinks: whether attention has a learned logit a head that adds no value.
    biased: whether experts have biases, and gpt-oss's clamped activation.
  """

  name: str
  width: int
  expert_width: int
  experts: int
  top_k: int
  heads: int
  kv_heads: int
  head_dim: int
  renormalize: bool
  window: int | None = None
  sinks: bool = False
  biased: bool = False


MODEL_SHAPES = {
  shape.name: shape
  for shape in (
    ModelShape(
      name="Mixtral-8x7B", width=4096, expert_width=14336, experts=8, top_k=2,
      heads=32, kv_heads=8, head_dim=128, renormalize=True,
    ),
    ModelShape(
      name="Qwen3-30B-A3B", width=2048, expert_width=768, experts=128, top_k=8,
      heads=32, kv_heads=4, head_dim=128, renormalize=True,
    ),
    ModelShape(
      name="Qwen2-57B-A14B", width=3584, expert_width=2560, experts=64, top_k=8,
      heads=28, kv_heads=4, head_dim=128, renormalize=False,
    ),
    # Its attention is MLA, which caches a latent; this is the expanded form, values' width for all.
    ModelShape(
      name="DeepSeek-V2-Lite", width=2048, expert_width=1408, experts=64, top_k=6,
      heads=16, kv_heads=16, head_dim=128, renormalize=False,
    ),
    ModelShape(
      name="OLMoE-1B-7B", width=2048, expert_width=1024, experts=64, top_k=8,
      heads=16, kv_heads=16, head_dim=128, renormalize=False,
    ),
    ModelShape(
      name="gpt-oss-20b", width=2880, expert_width=2880, experts=32, top_k=4,
      heads=64, kv_heads=8, head_dim=64, renormalize=True, window=128, sinks=True, biased=True,
    ),
  )
}  # fmt: skip
