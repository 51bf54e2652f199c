"""What a decoder is made of: frozen, hashable descriptions that every other part derives from."""

import dataclasses
from typing import Literal

from lynx_jax.routing.base import Router


def _require(ok: bool, where: object, field: str, value: object, remedy: str) -> None:
  if not ok:
    raise ValueError(f"{type(where).__name__}.{field} is {value!r}: {remedy}")


def _require_positive(where: object, *fields: str) -> None:
  for field in fields:
    value = getattr(where, field)
    whole = isinstance(value, int) and not isinstance(value, bool)
    _require(whole and value >= 1, where, field, value, "expected a whole number of at least 1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
  """Grouped-query attention with rotary positions.

  Attributes:
    heads: query heads (N).
    kv_heads: key and value heads (G), a divisor of `heads`.
    head_dim: width of one head (H), even; not always `width / heads`.
    rope_theta: base of the rotary frequencies.
    qk_norm: RMS norm of queries and keys: none, per head (Qwen3), or over the whole projection (OLMoE).
    bias: whether the four projections carry biases.
    clip: bound on the magnitude of projected queries, keys and values, or None.
    window: positions a query sees, itself included, or None for all before it.
  """

  heads: int
  kv_heads: int
  head_dim: int
  rope_theta: float
  qk_norm: Literal["none", "head", "projection"] = "none"
  bias: bool = False
  clip: float | None = None
  window: int | None = None

  def __post_init__(self) -> None:
    _require_positive(self, "heads", "kv_heads", "head_dim")
    _require(
      self.heads % self.kv_heads == 0,
      self,
      "kv_heads",
      self.kv_heads,
      f"expected a divisor of heads {self.heads}",
    )
    _require(self.head_dim % 2 == 0, self, "head_dim", self.head_dim, "rotary embedding needs an even width")
    _require(self.rope_theta > 0, self, "rope_theta", self.rope_theta, "expected a positive number")
    _require(self.window is None or self.window >= 1, self, "window", self.window, "expected None or at least 1")
    _require(self.clip is None or self.clip > 0, self, "clip", self.clip, "expected None or a positive number")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MoESpec:
  """A layer of SwiGLU experts (E of width F, K a token) behind a router.

  Attributes:
    experts: E.
    top_k: K.
    expert_width: F.
    router: how the router's logits become a token's experts and their weights.
    selection_bias: whether a bias [E] is added to a sigmoid router's gates for the choice of experts.
  """

  experts: int
  top_k: int
  expert_width: int
  router: Router = dataclasses.field(default_factory=Router)
  selection_bias: bool = False

  def __post_init__(self) -> None:
    _require_positive(self, "experts", "top_k", "expert_width")
    _require(self.top_k <= self.experts, self, "top_k", self.top_k, f"expected at most experts {self.experts}")
    self.router.check_sizes(self.experts, self.top_k)
    biased = not self.selection_bias or self.router.scoring == "sigmoid"
    _require(biased, self, "selection_bias", self.selection_bias, f"only sigmoid routers have one, not {self.router}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DenseSpec:
  """A layer of one SwiGLU network that every token runs."""

  width: int

  def __post_init__(self) -> None:
    _require_positive(self, "width")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
  """One pre-norm transformer layer."""

  attention: AttentionSpec
  ffn: MoESpec | DenseSpec


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
  """A whole decoder-only model.

  Attributes:
    family: name of the family whose rules read the checkpoint, such as `mixtral`.
    vocab: entries of the vocabulary (V).
    width: model width (D).
    layers: one spec a layer.
    norm_eps: added to the mean square inside every RMS norm.
    tied: whether the output head is the embedding.
    context: positions that the model was made for, in tokens.
    stop_ids: token ids that end a row.
  """

  family: str
  vocab: int
  width: int
  layers: tuple[LayerSpec, ...]
  norm_eps: float
  tied: bool
  context: int
  stop_ids: tuple[int, ...] = ()

  def __post_init__(self) -> None:
    _require_positive(self, "vocab", "width", "context")
    _require(len(self.layers) > 0, self, "layers", self.layers, "expected at least one layer")
    _require(self.norm_eps > 0, self, "norm_eps", self.norm_eps, "expected a positive number")
    inside = all(0 <= token < self.vocab for token in self.stop_ids)
    _require(inside, self, "stop_ids", self.stop_ids, f"expected ids from 0 to {self.vocab - 1}")

  @property
  def moe_layers(self) -> tuple[int, ...]:
    """Indices of the layers that have experts."""
    return tuple(i for i, layer in enumerate(self.layers) if isinstance(layer.ffn, MoESpec))
