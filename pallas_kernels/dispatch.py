"""Which implementation of an op runs, and why the others do not."""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax

from pallas_kernels.derivatives import differentiated_as
from pallas_kernels.refusal import refuse
from pallas_kernels.weights.base import kinds_held

GPU = "cuda"
CPU = "cpu"
_NAMES = {CPU: "on CPUs", GPU: "on NVIDIA GPUs"}
# `jax.lax.platform_dependent`'s word for every platform that has no branch of its own.
_ELSEWHERE = "default"

Choice: TypeAlias = str | Sequence[str] | None
"""What a caller may ask for: an implementation's name, several names of which the first that can run is taken, or None
for the best one on the platform that the program is compiled for."""


def hashable(choice: Choice) -> Choice:
  """The same choice as a value that `jax.jit` accepts as static: a list becomes a tuple."""
  return choice if choice is None or isinstance(choice, str) else tuple(choice)


@dataclasses.dataclass(frozen=True, slots=True)
class Implementation:
  """One way to compute an op.

  Attributes:
    name: what a caller asks for it by.
    run: the function: it takes the op's arrays and static options.
    about: a few words for `explain`.
    platforms: where it may be chosen unasked; None is everywhere.
    objection: given the op's arguments, says why it cannot take them, or None.
    differentiable: whether `run` has derivatives. Where it has none, those of the op's last implementation are used.
    unavailable: says why it cannot run on this machine whatever the arguments are, or None.
    takes: kinds of held weights (`pallas_kernels.weights`) that it reads besides plain arrays; None is every kind.
    bound: whether it can run on `platforms` only, even if it is asked for by name. CPU code is bound; a Pallas kernel
      is not, because it is interpreted on other platforms.
  """

  name: str
  run: Callable[..., Any]
  about: str
  platforms: tuple[str, ...] | None = None
  objection: Callable[..., str | None] = lambda *arrays, **options: None
  differentiable: bool = False
  unavailable: Callable[[], str | None] = lambda: None
  takes: tuple[str, ...] | None = None
  bound: bool = False

  def serves(self, platform: str, *, asked: bool = False) -> bool:
    """Whether it may run on `platform`: unasked, or because the caller `asked` for it by name."""
    return self.platforms is None or platform in self.platforms or (asked and not self.bound)

  def refuses(self, arrays: tuple[Any, ...], options: dict[str, Any]) -> str | None:
    """Says why it cannot run with these arguments, or None."""
    return self.unavailable() or self._refuses_weights(arrays) or self.objection(*arrays, **options)

  def _refuses_weights(self, arrays: tuple[Any, ...]) -> str | None:
    if self.takes is None:
      return None
    refused = sorted(kinds_held(arrays) - set(self.takes))
    taken = " and ".join(("plain arrays", *self.takes))
    return f"it takes no weights held as {' or '.join(refused)}: it takes {taken}" if refused else None


@dataclasses.dataclass(frozen=True, slots=True)
class Op:
  """An op and its implementations, the best one first.

  The last implementation is the reference: plain JAX, differentiable, on every platform.
  """

  name: str
  implementations: tuple[Implementation, ...]

  def __call__(self, implementation: Choice, *arrays: Any, **options: Any) -> Any:
    """Runs the implementation asked for, or the best one for the platform that the program is compiled for.

    Raises:
      ValueError: no implementation has that name.
      NotImplementedError: none of those asked for can take these arguments. The message has each one's reason. It is
        raised while compiling where the platform is the reason, because only then the platform is known.
    """
    # Indices and sums of integers are int32 in every implementation, also in a process that asks for 64-bit numbers.
    with jax.enable_x64(False):
      return self._run(self._candidates(implementation), implementation is not None, arrays, options)

  def _run(
    self, candidates: Sequence[Implementation], asked: bool, arrays: tuple[Any, ...], options: dict[str, Any]
  ) -> Any:
    reasons = {candidate.name: candidate.refuses(arrays, options) for candidate in candidates}
    able = [candidate for candidate in candidates if reasons[candidate.name] is None]
    if not able:
      raise NotImplementedError(self._refusal(reasons))
    taken = {
      place: next((candidate for candidate in able if candidate.serves(place, asked=asked)), None)
      for place in (GPU, CPU, _ELSEWHERE)
    }
    first = taken[CPU]
    if first is not None and all(candidate is first for candidate in taken.values()):
      return self._ready(first, options)(*arrays)
    branches = {
      place: self._refusing(reasons, able, options) if candidate is None else self._ready(candidate, options)
      for place, candidate in taken.items()
    }
    return jax.lax.platform_dependent(*arrays, **branches)

  def _candidates(self, choice: Choice) -> tuple[Implementation, ...]:
    if choice is None:
      return self.implementations
    by_name = {candidate.name: candidate for candidate in self.implementations}
    wanted = (choice,) if isinstance(choice, str) else tuple(choice)
    for name in wanted:
      if name not in by_name:
        names = ", ".join(map(repr, by_name))
        raise ValueError(f"{self.name} has no implementation {name!r}: choose one of {names}, or None for the best")
    if not wanted:
      raise ValueError(f"{self.name}: implementation is an empty list: give a name, or None for the best")
    return tuple(by_name[name] for name in wanted)

  def _ready(self, chosen: Implementation, options: dict[str, Any]) -> Callable[..., Any]:
    """`chosen.run` with its options and with derivatives; traced once for the same options and shapes."""
    reference = chosen.run if chosen.differentiable else self.implementations[-1].run
    make = _kept if _keeping.get() else _prepared
    return make(chosen.run, reference, tuple(options.items()))

  def _refusing(
    self, reasons: dict[str, str | None], able: Sequence[Implementation], options: dict[str, Any]
  ) -> Callable[..., Any]:
    """A branch for platforms that nothing asked for can run on: it raises when it is compiled."""
    places = {candidate.name: _places(candidate) for candidate in able}
    message = self._refusal({name: why or f"it runs {places[name]} only" for name, why in reasons.items()})
    like = self._ready(able[0], options)
    return lambda *arrays: refuse(message, jax.eval_shape(like, *arrays))

  def _refusal(self, reasons: dict[str, str | None]) -> str:
    said = "; ".join(f"implementation {name!r} cannot run: {why}" for name, why in reasons.items())
    return f"{self.name}: {said}"

  def explain(self) -> list[str]:
    """One line an implementation: where it is taken, unless it objects to the arguments, and what it is."""
    here = GPU if jax.default_backend() == "gpu" else jax.default_backend()
    reasons = {c.name: c.unavailable() for c in self.implementations}
    able = [c for c in self.implementations if reasons[c.name] is None]
    taken = {platform: next(c for c in able if c.serves(platform)) for platform in {here, *_NAMES}}
    lines = []
    for candidate in self.implementations:
      places = [_NAMES.get(platform, f"on {platform}") for platform, best in sorted(taken.items()) if best is candidate]
      verdict = f"runs {' and '.join(places)}" if places else "can be asked for"
      if reason := reasons[candidate.name]:
        verdict = f"cannot run: {reason}"
      marker = " (here)" if taken[here] is candidate else ""
      lines.append(f"{self.name}  {candidate.name}: {verdict}{marker}; {candidate.about}")
    return lines


def _places(candidate: Implementation) -> str:
  return " and ".join(_NAMES.get(platform, f"on {platform}") for platform in candidate.platforms or ())


def _prepared(run: Callable[..., Any], reference: Callable[..., Any], options: tuple) -> Callable[..., Any]:
  prepared = functools.partial(run, **dict(options))
  if run is reference:
    return prepared
  return differentiated_as(prepared, functools.partial(reference, **dict(options)))


@functools.cache
def _kept(run: Callable[..., Any], reference: Callable[..., Any], options: tuple) -> Callable[..., Any]:
  """`run` under `jax.jit`: a model's layers call a kernel with the same shapes and options, and share one trace."""
  return jax.jit(_prepared(run, reference, options))


_keeping: contextvars.ContextVar[bool] = contextvars.ContextVar("keeping", default=True)


@contextlib.contextmanager
def traced_anew() -> Iterator[None]:
  """Inside, every call of an op is traced again.

  For code that changes how a kernel is built, such as a search for its block sizes: a kept trace would hide the change.
  """
  token = _keeping.set(False)
  try:
    yield
  finally:
    _keeping.reset(token)
