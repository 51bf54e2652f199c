"""Choosing a kernel's block sizes: those on trial, or those measured on this device, or those of a rule."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import jax

from pallas_kernels.dispatch import traced_anew
from pallas_kernels.gpu.block_sizes import Blocks, Question
from pallas_kernels.gpu.triton_backend import pl
from pallas_kernels.gpu.tuned_blocks import tuned
from pallas_kernels.weights.form import Form

__all__ = [
  "Blocks", "Question", "by_rule", "choose", "dividing_step", "questions", "sizes_of_form", "tiled_step", "trying",
]  # fmt: skip

_tried: contextvars.ContextVar[Mapping[Question, Blocks]] = contextvars.ContextVar(
  "tried", default=MappingProxyType({})
)
_asked: contextvars.ContextVar[tuple[dict[Question, Blocks], ...]] = contextvars.ContextVar("asked", default=())
_measured: contextvars.ContextVar[bool] = contextvars.ContextVar("measured", default=True)


def choose(kernel: str, sizes: tuple[int, ...], rule: Callable[[], Blocks]) -> Blocks:
  """The block sizes on trial, or else those measured on this machine's GPU, or else the rule's."""
  measured = tuned(_device_kind()) if _measured.get() else {}
  found = _tried.get().get((kernel, sizes)) or measured.get((kernel, sizes)) or rule()
  for answers in _asked.get():
    answers[kernel, sizes] = found
  return found


def _device_kind() -> str:
  return jax.devices()[0].device_kind if jax.default_backend() == "gpu" else ""


@contextlib.contextmanager
def trying(question: Question, blocks: Blocks) -> Iterator[None]:
  """Inside, kernels that this thread traces answer `question` with `blocks`."""
  token = _tried.set({**_tried.get(), question: blocks})
  try:
    with traced_anew():
      yield
  finally:
    _tried.reset(token)


@contextlib.contextmanager
def questions() -> Iterator[dict[Question, Blocks]]:
  """Collects what kernels that this thread traces inside ask, with the answers that they are given."""
  answers: dict[Question, Blocks] = {}
  token = _asked.set((*_asked.get(), answers))
  try:
    with traced_anew():
      yield answers
  finally:
    _asked.reset(token)


@contextlib.contextmanager
def by_rule() -> Iterator[None]:
  """Inside, this thread chooses without the measured block sizes, so that candidates are compared with the rule."""
  token = _measured.set(False)
  try:
    with traced_anew():
      yield
  finally:
    _measured.reset(token)


def dividing_step(inner: int, most: int) -> int:
  """A power of two of at most `most` that divides `inner` if one can: masks would break the pipeline of loads."""
  dividing = inner & -inner
  return max(16, min(most, dividing if dividing >= 32 else pl.next_power_of_2(inner)))


def sizes_of_form(form: Form | None, inner: int) -> tuple[int, ...]:
  """What block sizes depend on, of a weight's form: none of a plain weight's, or bits of a number, and its group."""
  return () if form is None else (form.bits, form.group or inner)


def tiled_step(form: Form, inner: int, most: int) -> int:
  """A step along the inputs of a weight in tiles: whole blocks, a power of two of them if one divides the inputs."""
  blocks = form.inputs(inner) // form.block
  return form.block * max(1, min(most // form.block, blocks & -blocks))
