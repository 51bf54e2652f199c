"""What a decoder is made of: frozen, hashable descriptions that every other part derives from."""

import dataclasses
from typing import Literal, TypeAlias

from lynx_jax.routing.base import Router
from pallas_kernels.activations import SWIGLU, Activation


def _require(ok: bool, where: object, field: str, value: object, remedy: str) -> None:
  if not ok:
    raise ValueError(f"{type(where).__name__}.{field} is {value!r}: {remedy}")


def _require_above_zero(where: object, *fields: str) -> None:
  for field in fields:
    value = getattr(where, field)
    _require(value > 0, where, field, value, "expected a positive number")


def _require_positive(where: object, *fields: str) -> None:
  for field in fields:
    value = getattr(where, field)
    whole = isinstance(value, int) and not isinstance(value, bool)
    _require(whole and value >= 1, where, field, value, "expected a whole number of at least 1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
  """Every frequency divided by `factor` (position interpolation, arXiv 2306.15595)."""

  factor: float

  def __post_init__(self) -> None:
    _require_above_zero(self, "factor")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
  """Low frequencies divided by `factor`, high ones kept, a ramp between (YaRN, arXiv 2309.00071).

  Attributes:
    factor: how much longer the context became.
    original_context: positions of the first training.
    attention_factor: what turned queries and keys are multiplied by.
    beta_fast: turns over the original context at which the ramp begins.
    beta_slow: and at which it ends.
    truncate: whether the ramp's ends are rounded outwards to whole frequencies.
  """

  factor: float
  original_context: int
  attention_factor: float
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  truncate: bool = True

  def __post_init__(self) -> None:
    _require_positive(self, "original_context")
    _require_above_zero(self, "factor", "attention_factor", "beta_fast", "beta_slow")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
  """Wavelengths over `original_context / low_frequency_factor` stretched by `factor`, short ones kept (Llama 3.1)."""

  factor: float
  low_frequency_factor: float
  high_frequency_factor: float
  original_context: int

  def __post_init__(self) -> None:
    _require_positive(self, "original_context")
    _require_above_zero(self, "factor", "low_frequency_factor")
    above = self.high_frequency_factor >= self.low_frequency_factor
    remedy = f"expected at least low_frequency_factor {self.low_frequency_factor}"
    _require(above, self, "high_frequency_factor", self.high_frequency_factor, remedy)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LongScaling:
  """A divisor for each frequency, and others past the original context (LongRoPE, arXiv 2402.13753).

  Attributes:
    short_factors: divisors of a row no longer than `original_context`, one a pair.
    long_factors: those of a longer row.
    original_context: positions of the first training.
    short_attention_factor: what turned queries and keys of a short row are multiplied by.
    long_attention_factor: those of a longer one.
  """

  short_factors: tuple[float, ...]
  long_factors: tuple[float, ...]
  original_context: int
  short_attention_factor: float = 1.0
  long_attention_factor: float = 1.0

  def __post_init__(self) -> None:
    _require_positive(self, "original_context")
    _require_above_zero(self, "short_attention_factor", "long_attention_factor")
    for field in ("short_factors", "long_factors"):
      factors = getattr(self, field)
      _require(all(factor > 0 for factor in factors), self, field, factors, "expected positive numbers")


Scaling: TypeAlias = LinearScaling | YarnScaling | Llama3Scaling | LongScaling


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
  """Rotary positions over whole heads, in the form that pairs a head's first half with its second.

  Checkpoints that pair neighbours are put in this order: when they are read (Llama 4), or as they run (`MLASpec`).

  Attributes:
    theta: base of the frequencies.
    scaling: how they were changed for a longer context, or None.
  """

  theta: float
  scaling: Scaling | None = None

  def __post_init__(self) -> None:
    _require_above_zero(self, "theta")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Temperature:
  """Queries that grow with their position: times 1 + gain * log(1 + floor((position + 1) / floor)).

  Attributes:
    gain: of the logarithm.
    floor: positions in one step.
  """

  gain: float
  floor: float

  def __post_init__(self) -> None:
    _require_above_zero(self, "floor")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
  """Grouped-query attention.

  Attributes:
    heads: query heads (N).
    kv_heads: key and value heads (G), a divisor of `heads`.
    head_dim: width of one head (H), even; not always `width / heads`.
    rope: how positions turn queries and keys, or None where the layer has no positions.
    qk_norm: RMS norm of queries and keys: none, per head (Qwen3), over the whole projection (OLMoE), or per head
      without a learned scale (`l2`, Llama 4).
    qkv_bias: whether the projections to queries, keys and values carry biases.
    output_bias: whether the one back to the model width does.
    clip: bound on the magnitude of projected queries, keys and values, or None.
    window: positions a query sees, itself included, or None for all before it.
    chunk: a query sees its own chunk of that many positions up to itself; None for no chunks.
    scale: what scores are multiplied by; None is 1 / sqrt(head_dim).
    sinks: whether each head has a learned logit that takes part in its softmax and adds no value.
    temperature: how queries grow with their position, or None.
  """

  heads: int
  kv_heads: int
  head_dim: int
  rope: RopeSpec | None
  qk_norm: Literal["none", "head", "projection", "l2"] = "none"
  qkv_bias: bool = False
  output_bias: bool = False
  clip: float | None = None
  window: int | None = None
  chunk: int | None = None
  scale: float | None = None
  sinks: bool = False
  temperature: Temperature | None = None

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
    _require(self.window is None or self.window >= 1, self, "window", self.window, "expected None or at least 1")
    _require(self.chunk is None or self.chunk >= 1, self, "chunk", self.chunk, "expected None or at least 1")
    one = self.window is None or self.chunk is None
    _require(one, self, "chunk", self.chunk, f"expected None beside a window of {self.window}")
    _require(self.clip is None or self.clip > 0, self, "clip", self.clip, "expected None or a positive number")
    if self.rope is not None and isinstance(self.rope.scaling, LongScaling):
      for field in ("short_factors", "long_factors"):
        count = len(getattr(self.rope.scaling, field))
        remedy = f"expected one for each of the {self.head_dim // 2} pairs of a head"
        _require(count == self.head_dim // 2, self.rope.scaling, field, f"{count} numbers", remedy)

  @property
  def cache_width(self) -> int:
    """Numbers that the cache holds for one position."""
    return 2 * self.kv_heads * self.head_dim


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MLASpec:
  """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): all heads' keys and values come of one latent.

  Attributes:
    heads: N.
    rank: width of the latent (`kv_lora_rank`).
    query_rank: width of the queries' own latent (`q_lora_rank`), or None where they have none.
    key_width: of a head's part without position (`qk_nope_head_dim`).
    rope_width: of a head's part that is turned, even; its key is shared by all heads (`qk_rope_head_dim`).
    value_width: of a head's values (`v_head_dim`).
    rope: how positions turn queries and keys.
    scale: what scores are multiplied by.
    neighbours: whether the checkpoint turns pairs of neighbours, not a head's first half with its second.
    bias: whether the projections to latents and back to the model width carry biases.
  """

  heads: int
  rank: int
  query_rank: int | None
  key_width: int
  rope_width: int
  value_width: int
  rope: RopeSpec
  scale: float
  neighbours: bool = True
  bias: bool = False

  def __post_init__(self) -> None:
    _require_positive(self, "heads", "rank", "key_width", "rope_width", "value_width")
    if self.query_rank is not None:
      _require_positive(self, "query_rank")
    _require(self.rope_width % 2 == 0, self, "rope_width", self.rope_width, "rotary embedding needs an even width")
    _require_above_zero(self, "scale")

  @property
  def cache_width(self) -> int:
    """Numbers that the cache holds for one position: the latent and the rotary key."""
    return self.rank + self.rope_width


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DenseSpec:
  """A layer of one SwiGLU network that every token runs."""

  width: int

  def __post_init__(self) -> None:
    _require_positive(self, "width")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MoESpec:
  """A layer of experts (E of width F, K a token) behind a router.

  Attributes:
    experts: E.
    top_k: K of the model's own rule.
    expert_width: F.
    router: how the router's logits become a token's experts and their weights.
    router_bias: whether the router adds a bias to its logits.
    selection_bias: whether a bias [E] is added to a sigmoid router's gates for the choice of experts.
    bias: whether both products of an expert carry biases.
    activation: between an expert's two products.
    scale_input: whether a weight multiplies what goes into its expert (Llama 4), not what comes out.
    shared: a network that every token runs beside its experts, whatever routing decides; None for none.
    shared_gate: whether the sigmoid of a learned projection scales the shared network's result.
  """

  experts: int
  top_k: int
  expert_width: int
  router: Router = dataclasses.field(default_factory=Router)
  router_bias: bool = False
  selection_bias: bool = False
  bias: bool = False
  activation: Activation = SWIGLU
  scale_input: bool = False
  shared: DenseSpec | None = None
  shared_gate: bool = False

  def __post_init__(self) -> None:
    _require_positive(self, "experts", "top_k", "expert_width")
    _require(self.top_k <= self.experts, self, "top_k", self.top_k, f"expected at most experts {self.experts}")
    self.router.check_sizes(self.experts, self.top_k)
    biased = not self.selection_bias or self.router.scoring == "sigmoid"
    _require(biased, self, "selection_bias", self.selection_bias, f"only sigmoid routers have one, not {self.router}")
    gated = self.shared is not None or not self.shared_gate
    _require(gated, self, "shared_gate", self.shared_gate, "expected False where there is no shared network")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
  """One pre-norm transformer layer."""

  attention: AttentionSpec | MLASpec
  ffn: MoESpec | DenseSpec


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
  """A whole decoder-only model.

  Attributes:
    family: name of the family whose rules read the checkpoint, such as `mixtral`.
    vocab: entries of the vocabulary (V).
    width: model width (D).
    layers: one spec a layer.
    norm_eps: added to the mean square, or the variance, inside every norm.
    tied: whether the output head is the embedding.
    context: positions that the model was made for, in tokens.
    stop_ids: token ids that end a row.
    norm: of the residual stream: a root mean square (arXiv 1910.07467) or a LayerNorm (arXiv 1607.06450).
    norm_bias: whether a LayerNorm adds a bias.
    head_bias: whether the output head adds a bias.
    embedding_multiplier: scales what the embedding gives.
    residual_multiplier: scales what every part of a layer adds to the residual stream.
    logits_divisor: divides the output logits.
  """

  family: str
  vocab: int
  width: int
  layers: tuple[LayerSpec, ...]
  norm_eps: float
  tied: bool
  context: int
  stop_ids: tuple[int, ...] = ()
  norm: Literal["rms", "layer"] = "rms"
  norm_bias: bool = False
  head_bias: bool = False
  embedding_multiplier: float = 1.0
  residual_multiplier: float = 1.0
  logits_divisor: float = 1.0

  def __post_init__(self) -> None:
    _require_positive(self, "vocab", "width", "context")
    _require(len(self.layers) > 0, self, "layers", self.layers, "expected at least one layer")
    _require_above_zero(self, "norm_eps", "logits_divisor")
    biased = self.norm == "layer" or not self.norm_bias
    _require(biased, self, "norm_bias", self.norm_bias, "expected False: a root mean square has no bias")
    inside = all(0 <= token < self.vocab for token in self.stop_ids)
    _require(inside, self, "stop_ids", self.stop_ids, f"expected ids from 0 to {self.vocab - 1}")

  @property
  def moe_layers(self) -> tuple[int, ...]:
    """Indices of the layers that have experts."""
    return tuple(i for i, layer in enumerate(self.layers) if isinstance(layer.ffn, MoESpec))
