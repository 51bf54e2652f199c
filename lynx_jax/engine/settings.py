"""How an engine is set up."""

import dataclasses
from pathlib import Path

import jax

from lynx_jax.engine.host.step_plan import BLOCK_SIZE, Programs
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.routing import RoutingPolicy, as_policy
from pallas_kernels.checks import field_of, number_fields, require, whole_fields


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
  """What an engine has room for, and what it promises.

  Attributes:
    slots: sequences that run at the same time; the others wait.
    context: positions of the longest sequence, prompt and new tokens; None is the model's own, at most 4,096.
    kv_bytes: memory for the cache of keys and values; None is room for `slots` sequences of `context` positions, or a
      quarter of the memory that is available if that is less.
    policy: which experts decoding rows may use, as a policy or as text; None is the model's own routing.
    mixed: tokens of the programs that read prompts, rising, each more than `slots`. None is 128 and 512, and 2,048 as
      well on a GPU; only 128 if deterministic.
    run_ahead: steps that the device may be given before the result of the one before is known, 0 or more. None is 1,
      but 0 on a CPU: the step needs all its cores, and work beside it would slow it down by more than it takes.
    deterministic: whether exact requests get the same bits whatever else runs: prompts are read in chunks of one size,
      in steps of their own, and nothing is ever preempted. Slower.
    step_ms: how long a decode step should take, in milliseconds, or None. The engine then limits the experts that
      adaptive rows may read, and the prompts' tokens that steps read beside decoding rows: such a step is meant to
      take less than two decode steps.
    least_retained: share of its experts' weight that an adaptive row keeps in the mean, whatever `step_ms` says.
    most_waiting: requests that may wait before others are refused; None is no limit.
    most_waiting_tokens: of the prompts that wait, before others are refused; None is no limit. One may always wait.
    prompts_first: whether nothing decodes while a prompt can be read, as a batch does: sequences then decode in lock
      step. Long for those that wait for their next token.
    prefix_first: whether waiting requests with the longest cached prefix go first, not those that came first.
    stats: whether steps compare the policy with the model's own routing. It costs some time.
    routing: whether requests may ask for the experts of their tokens (`return_routing`).
    readers: whether the log says who reads each expert in every step (`StepRecord.readers`). It costs some time.
    programs: a directory where compiled programs are kept; None is beside JAX's compilation cache, if that is on.
  """

  slots: int = 16
  context: int | None = None
  kv_bytes: int | None = None
  policy: RoutingPolicy | str | None = None
  mixed: tuple[int, ...] | None = None
  run_ahead: int | None = None
  deterministic: bool = False
  step_ms: float | None = None
  least_retained: float = 0.8
  most_waiting: int | None = None
  most_waiting_tokens: int | None = None
  prompts_first: bool = False
  prefix_first: bool = False
  stats: bool = False
  routing: bool = False
  readers: bool = False
  programs: Path | None = None

  def __post_init__(self) -> None:
    whole_fields(self, "slots", least=1)
    if self.run_ahead is not None:
      whole_fields(self, "run_ahead", least=0)
    if self.context is not None:
      whole_fields(self, "context", least=1)
    if self.kv_bytes is not None:
      whole_fields(self, "kv_bytes", least=1)
    if self.step_ms is not None:
      number_fields(self, "step_ms", above=0)
    number_fields(self, "least_retained", least=0, most=1)
    if self.policy is not None:
      object.__setattr__(self, "policy", as_policy(self.policy))
    if self.mixed is not None:
      self._check_mixed(self._programs(self.mixed).mixed)

  def _check_mixed(self, mixed: tuple[int, ...]) -> None:
    # Whole chunks in steps of their own need one program, whose size is a whole number of blocks.
    whole = not self.deterministic or (len(mixed) == 1 and mixed[0] % BLOCK_SIZE == 0)
    remedy = "give one size, such as (128,)"
    require(whole, field_of(self, "mixed"), mixed, f"one multiple of {BLOCK_SIZE} if deterministic", remedy)

  @property
  def step_programs(self) -> Programs:
    """The shapes of steps: decode for powers of two of rows up to `slots`, and `mixed`, as suits the default device."""
    return self._programs(self._usual_mixed() if self.mixed is None else self.mixed)

  def _programs(self, mixed: tuple[int, ...]) -> Programs:
    powers = [1 << power for power in range((self.slots - 1).bit_length())]
    return Programs(decode=(self.slots,) if self.deterministic else (*powers, self.slots), mixed=mixed)

  def _usual_mixed(self) -> tuple[int, ...]:
    """The sizes of steps that read prompts, where they are not given."""
    if self.deterministic:
      return _USUAL_MIXED[:1]
    sizes = _USUAL_MIXED if jax.default_backend() == "cpu" else (*_USUAL_MIXED, _LARGE_MIXED)
    return tuple(size for size in sizes if size > self.slots) or (2 * self.slots,)

  @property
  def steps_ahead(self) -> int:
    """`run_ahead`, or what is best on the default device."""
    return int(jax.default_backend() != "cpu") if self.run_ahead is None else self.run_ahead

  def positions(self, spec: DecoderSpec) -> int:
    """Positions of the longest sequence.

    Raises:
      ValueError: more than the model was made for.
    """
    if self.context is None:
      return min(spec.context, _USUAL_CONTEXT)
    remedy = f"the model was made for {spec.context} positions"
    require(self.context <= spec.context, field_of(self, "context"), self.context, f"at most {spec.context}", remedy)
    return self.context


_USUAL_CONTEXT = 4096
_USUAL_MIXED, _LARGE_MIXED = (128, 512), 2048
