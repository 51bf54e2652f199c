"""A roofline of a decode step: bytes that must be read, and what launches and collectives add.

Decode is bound by memory, so a part takes its bytes over the bandwidth, or its arithmetic over the peak where that is
more. Constants are stated here and not fitted to what the model is checked against (`lynx_jax.estimate.published`).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from lynx_jax.models.parameters import abstract_model, declarations
from lynx_jax.models.sizes import bytes_of, counts, weight_bytes
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.placement import Role
from pallas_kernels import MXFP4, QuantizedWeight, abstract_quantized

ITEM_BYTES = 2
"""bfloat16."""
BANDWIDTH_SHARE = 0.9
"""Share of the data sheet's bandwidth that reads reach: copies ran at 3.0 of 3.35 TB/s on H100, 4.3 of 4.8 on H200."""
LAUNCH_US = 3.0
"""Start, drain and dependence of one small kernel inside a CUDA graph, in microseconds."""
LAUNCHES_A_LAYER = 11
"""Kernels of a layer with experts in this library's decode loop (docs/results)."""
LAUNCHES_OF_EXPERTS = 6
"""Those of the layer's experts: norm and router, routing, norm, two expert products, sum."""
LAUNCHES_OUTSIDE = 80
"""Kernels of a step outside its layers, nearly all of them sampling."""
MOST_GPUS = 72
"""GPUs that NVLink joins at most (GB200 NVL72)."""
USABLE_MEMORY = 0.9
"""Share of a GPU's memory that weights and cache may take; the rest is for activations and the driver."""
REDUCE_US, LINK_BYTES_A_S = 10.0, 450e9
"""An all-reduce between GPUs: its latency, and NVLink's bandwidth one way."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
  """A GPU by its data sheet: bytes a second, dense bfloat16 operations a second, and bytes of memory."""

  name: str
  bandwidth: float
  flops: float
  memory: float


GPUS = {
  gpu.name: gpu
  for gpu in (
    Gpu(name="a100", bandwidth=2.039e12, flops=312e12, memory=80e9),
    Gpu(name="h100", bandwidth=3.352e12, flops=989e12, memory=80e9),
    Gpu(name="h200", bandwidth=4.8e12, flops=989e12, memory=141e9),
  )
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepSize:
  """What a decode step touches, in numbers of parameters.

  Attributes:
    layers: all layers.
    moe_layers: those with experts.
    experts: E, a layer.
    top_k: experts a token runs.
    expert: parameters of one expert.
    always: parameters that every step reads, but for experts and head: attention, routers, shared experts.
    head: parameters of the output head.
    kv_per_token: numbers that the cache holds for one position, all layers.
    width: D.
    expert_item, always_item, head_item: bytes of one of those parameters, its share of scales included.
  """

  layers: int
  moe_layers: int
  experts: int
  top_k: int
  expert: int
  always: int
  head: int
  kv_per_token: int
  width: int
  expert_item: float = ITEM_BYTES
  always_item: float = ITEM_BYTES
  head_item: float = ITEM_BYTES

  @property
  def expert_bytes(self) -> float:
    """Bytes of one expert."""
    return self.expert * self.expert_item

  @property
  def other_bytes(self) -> float:
    """Bytes that every step reads, the head among them."""
    return self.always * self.always_item + self.head * self.head_item

  def likely_experts(self, batch: int) -> float:
    """Distinct experts a layer when tokens choose independently and evenly: an upper bound on real text's."""
    return self.experts * (1 - (1 - self.top_k / self.experts) ** batch)


MXFP4_EXPERTS = "mxfp4"
"""Experts as gpt-oss's files hold them, and all else in bfloat16."""


def step_size(
  spec: DecoderSpec, weights: str | None = None, stored: Mapping[str, QuantizedWeight] | None = None
) -> StepSize:
  """Sizes from a configuration, with `weights` held as `load` would, or `MXFP4_EXPERTS`; bfloat16 otherwise.

  `stored` is what files hold quantised, by path, as shapes and dtypes; without `weights` it stays so.

  Raises ValueError where the model has no experts, or layers of different ones.
  """
  moe = set(spec.moe_specs)
  if len(moe) != 1:
    raise ValueError(f"{spec.family}: {len(moe)} kinds of expert layers: an estimate needs exactly one")
  (ffn,) = moe
  size, head = counts(spec), spec.vocab * spec.width
  if weights == MXFP4_EXPERTS:
    experts = {path: one.shape for path, one in declarations(spec).items() if one.role is Role.EXPERT}
    scales = jnp.float8_e8m0fnu
    packed = {path: abstract_quantized(shape, MXFP4, jnp.bfloat16, scales) for path, shape in experts.items()}
    held = abstract_model(spec, jnp.bfloat16, stored=packed)
  else:
    held = abstract_model(spec, jnp.bfloat16, weights, stored)
  read, head_bytes = weight_bytes(held), bytes_of(held.embedding if held.head is None else held.head)
  always = size.always_read - head
  return StepSize(
    layers=len(spec.layers),
    moe_layers=len(spec.moe_layers),
    experts=ffn.experts,
    top_k=ffn.top_k,
    expert=size.experts // (len(spec.moe_layers) * ffn.experts),
    always=always,
    head=head,
    kv_per_token=size.kv_per_token,
    width=spec.width,
    expert_item=read.experts / size.experts,
    always_item=(read.always_read - head_bytes) / always,
    head_item=head_bytes / head,
  )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
  """The parts of a step, in ms, and the number of distinct experts a layer that they were computed for."""

  active: float
  experts: float
  weights: float
  cache: float
  launches: float
  collectives: float

  @property
  def total(self) -> float:
    """The step, in ms."""
    return self.experts + self.weights + self.cache + self.launches + self.collectives


def step_time(
  size: StepSize, gpu: Gpu, *, active: float, batch: int, context: int, gpus: int = 1, launches: int | None = None
) -> StepTime:
  """Time of one decode step.

  Args:
    size: what the model touches.
    gpu: on what.
    active: distinct experts that the batch reads in a layer.
    batch: rows.
    context: positions that each row has in the cache, in tokens.
    gpus: over how many each layer is split (tensor parallel).
    launches: kernels of a step; None is this library's number.

  Raises:
    ValueError: `active` is not between `top_k` and E.
  """
  if not min(size.top_k, size.experts) <= active <= size.experts:
    raise ValueError(f"active is {active:g}: a batch reads between {size.top_k} and {size.experts} experts a layer")
  launches = LAUNCHES_A_LAYER * size.layers + LAUNCHES_OUTSIDE if launches is None else launches
  assignments = batch * size.top_k * size.moe_layers
  message = batch * size.width * ITEM_BYTES
  reduces = 0.0 if gpus == 1 else 2 * size.layers * (REDUCE_US * 1e-3 + 2e3 * message / LINK_BYTES_A_S)
  return StepTime(
    active=active,
    experts=_ms(active * size.moe_layers * size.expert_bytes, assignments * size.expert, gpu, gpus),
    weights=_ms(size.other_bytes, batch * (size.always + size.head), gpu, gpus),
    cache=_ms(batch * context * size.kv_per_token * ITEM_BYTES, 0, gpu, gpus),
    launches=launches * LAUNCH_US * 1e-3,
    collectives=reduces,
  )


def moe_layer_us(size: StepSize, gpu: Gpu, *, active: float, batch: int, launches: int = LAUNCHES_OF_EXPERTS) -> float:
  """Time of one layer's router and experts, in microseconds."""
  router = size.experts * size.width
  bytes_read = active * size.expert_bytes + router * ITEM_BYTES
  read = _ms(bytes_read, batch * (size.top_k * size.expert + router), gpu, 1)
  return 1e3 * read + launches * LAUNCH_US


def _ms(size: float, products: float, gpu: Gpu, gpus: int) -> float:
  """The longer of two times, in ms: reading `size` bytes, and `products` multiplications. `gpus` share both."""
  read = size / (gpu.bandwidth * BANDWIDTH_SHARE)
  return 1e3 * max(read, 2 * products / gpu.flops) / gpus


def estimates(
  size: StepSize, gpu: Gpu, active: Sequence[float], *, batch: int, context: int, gpus: int = 1
) -> list[StepTime]:
  """`step_time` of each number of experts."""
  return [step_time(size, gpu, active=count, batch=batch, context=context, gpus=gpus) for count in active]


def saving_line(
  size: StepSize, whole: StepSize, gpu: Gpu, *, active: float, batch: int, context: int, gpus: int = 1
) -> str:
  """What weights of few bits save of a step beside `whole`, the same model in bfloat16: bytes read, and time."""
  read = [(active * one.moe_layers * one.expert_bytes + one.other_bytes) / 1e9 for one in (size, whole)]
  times = [step_time(one, gpu, active=active, batch=batch, context=context, gpus=gpus) for one in (size, whole)]
  few, many = (1e3 * batch / time.total for time in times)
  return f"Weights: {read[0]:.2f} GB a step for {read[1]:.2f} in bfloat16; at most {few:.0f} tokens/s for {many:.0f}."


def fit_line(size: StepSize, gpu: Gpu, *, batch: int, context: int, gpus: int) -> str:
  """Whether weights and cache fit in the GPUs' memory, and on how many of them they would."""
  weights = size.moe_layers * size.experts * size.expert_bytes + size.other_bytes
  cache = batch * context * size.kv_per_token * ITEM_BYTES
  needed = math.ceil((weights + cache) / (gpu.memory * USABLE_MEMORY))
  parts = f"{weights / 1e9:.1f} GB of weights and {cache / 1e9:.1f} GB of cache"
  room = f"{gpus} x {gpu.memory / 1e9:.0f} GB"
  if needed <= gpus:
    return f"Fits: {parts} in {room}."
  remedy = f"give --gpus {needed}" if needed <= MOST_GPUS else "it needs more than one NVLink domain"
  return f"Does NOT fit: {parts} in {room}; {remedy}. The times are those of the bytes alone."
