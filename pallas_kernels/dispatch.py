"""Which implementation of an op runs, and why not the others."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

GPU = "cuda"
CPU = "cpu"
_NAMES = {CPU: "on CPUs", GPU: "on NVIDIA GPUs"}


def differentiated_as(run: Callable[..., Any], reference: Callable[..., Any]) -> Callable[..., Any]:
  """`run`, with the derivatives of `reference`: kernels have none of their own."""
  call = jax.custom_jvp(lambda *arrays: run(*arrays))
  call.defjvp(lambda primals, tangents: jax.jvp(reference, primals, tangents))
  return call


@functools.cache
def _prepared(run: Callable[..., Any], reference: Callable[..., Any], options: tuple) -> Callable[..., Any]:
  """`run` with its trace kept, as a model's layers call a kernel with the same shapes and options again and again."""
  prepared = functools.partial(run, **dict(options))
  if run is not reference:
    prepared = differentiated_as(prepared, functools.partial(reference, **dict(options)))
  return jax.jit(prepared)


@dataclasses.dataclass(frozen=True, slots=True)
class Implementation:
  """One way to compute an op.

  Attributes:
    name: what a caller asks for it by.
    run: the function, of the op's arrays and static options.
    about: a few words for `explain`.
    platforms: where it may be chosen unasked; None is everywhere.
    objection: given the op's arguments, why it cannot take them, or None.
    differentiable: whether it has derivatives; a kernel that has not takes the last implementation's.
    unavailable: why it cannot run on this machine whatever the arguments are, or None.
  """

  name: str
  run: Callable[..., Any]
  about: str
  platforms: tuple[str, ...] | None = None
  objection: Callable[..., str | None] = lambda *arrays, **options: None
  differentiable: bool = False
  unavailable: Callable[[], str | None] = lambda: None

  def serves(self, platform: str) -> bool:
    """Whether it may be chosen unasked on `platform`."""
    return self.platforms is None or platform in self.platforms


@dataclasses.dataclass(frozen=True, slots=True)
class Op:
  """An op and its implementations, the best first; the last one takes anything anywhere."""

  name: str
  implementations: tuple[Implementation, ...]

  def __call__(self, implementation: str | None, *arrays: Any, **options: Any) -> Any:
    """Runs the implementation of that name, or the best one for the platform that the program is lowered for.

    Raises:
      ValueError: no implementation has that name.
      NotImplementedError: the named one cannot take these arguments.
    """
    if implementation is not None:
      return self._named(implementation, *arrays, **options).run(*arrays, **options)
    best = {place: self._best(place, *arrays, **options) for place in (GPU, CPU, "default")}
    if len({candidate.name for candidate in best.values()}) == 1:
      return best[CPU].run(*arrays, **options)
    runs = {place: self._with_derivatives(candidate, options) for place, candidate in best.items()}
    return jax.lax.platform_dependent(*arrays, **runs)

  def _with_derivatives(self, chosen: Implementation, options: dict[str, Any]) -> Callable[..., Any]:
    reference = self.implementations[-1].run
    return _prepared(chosen.run, chosen.run if chosen.differentiable else reference, tuple(options.items()))

  def _best(self, platform: str, *arrays: Any, **options: Any) -> Implementation:
    for candidate in self.implementations[:-1]:
      if candidate.serves(platform) and candidate.objection(*arrays, **options) is None:
        return candidate
    return self.implementations[-1]

  def _named(self, name: str, *arrays: Any, **options: Any) -> Implementation:
    for candidate in self.implementations:
      if candidate.name == name:
        if objection := candidate.objection(*arrays, **options):
          raise NotImplementedError(f"{self.name}: implementation {name!r} cannot run: {objection}")
        return candidate
    names = ", ".join(repr(candidate.name) for candidate in self.implementations)
    raise ValueError(f"{self.name} has no implementation {name!r}: choose one of {names}, or None for the best")

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
