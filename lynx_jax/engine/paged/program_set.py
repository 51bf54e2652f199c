"""The step programs of one engine, compiled ahead of time: a wrong shape is an error, and compiles nothing."""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lynx_jax.engine.paged.adjusting import StepEdits, edits_shapes
from lynx_jax.engine.paged.executables import Executables
from lynx_jax.engine.paged.layout import Layout
from lynx_jax.engine.paged.step_arrays import EmptyStep, unpack_step
from lynx_jax.engine.paged.step_results import likely_fields, pack_outputs, pack_prompts, result_layout
from lynx_jax.engine.paged.step_shape import StepShape
from lynx_jax.engine.paged.steps import PagedState, StepSettings, paged_step
from lynx_jax.models.decoder import Decoder
from lynx_jax.models.spec import DecoderSpec
from pallas_kernels import graph_options

_LOG = logging.getLogger(__name__)
STATE = 1
"""Position of the argument whose memory a step takes over."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepProgram:
  """One compiled step.

  Attributes:
    shape: the sizes it is made for.
    run: the executable: weights, state, a packed step, all flat, and edits of logits give the state, the packed
      results, and what the prompts' log-probabilities and the routing are, where the settings ask for them.
    empty: makes a packed step for it.
    results: where its results lie.
    prompts: where the log-probabilities of prompts lie.
    temporary_bytes: memory that it needs while it runs.
  """

  shape: StepShape
  run: Callable[..., Any]
  empty: EmptyStep
  results: Layout
  prompts: Layout
  temporary_bytes: int


class ProgramSet:
  """Compiles step programs, keeps the executables on disk, and finds the smallest that holds a plan.

  Programs take the weights as one flat tuple. To flatten a decoder's modules takes 2 ms a call at 48 layers, a tuple
  0.02 ms. Weights are arguments and no constants, so other weights of the same shapes need no compilation.
  """

  def __init__(self, decoder: Decoder, state: PagedState, settings: StepSettings, *, directory: Path | None = None):
    """Compiles nothing yet.

    Args:
      decoder: the weights, or their shapes.
      state: the device's state, or its shapes.
      settings: of every program.
      directory: where executables are kept; None is beside JAX's compilation cache, if that is on.
    """
    self.spec: DecoderSpec = decoder.spec
    self.settings = settings
    self._weights, self._weights_tree = jax.tree.flatten(jax.tree.map(_shape_of, decoder))
    self._state, self._state_tree = jax.tree.flatten(jax.tree.map(_shape_of, state))
    self._executables = Executables(directory)
    self._programs: dict[StepShape, StepProgram] = {}
    self._lock = threading.Lock()

  @property
  def ready(self) -> tuple[StepShape, ...]:
    """The shapes whose programs are compiled, smaller ones first."""
    with self._lock:
      return tuple(sorted(self._programs, key=lambda shape: (shape.chunks, shape.rows)))

  def smallest(self, shapes: Sequence[StepShape], rows: int, chunks: bool) -> StepProgram:
    """The smallest compiled program that holds a plan.

    Args:
      shapes: those to choose from.
      rows: tokens of the plan.
      chunks: whether it has chunks of prompts.

    Raises:
      LookupError: no compiled program is large enough.
    """
    able = [shape for shape in shapes if shape.rows >= rows and shape.chunks >= chunks and shape in self._programs]
    if not able:
      kind, ready = "mixed" if chunks else "decode", ", ".join(shape.name for shape in self.ready)
      raise LookupError(f"no compiled {kind} program holds {rows} rows: {ready or 'none'} are ready")
    return self._programs[min(able, key=lambda shape: (shape.rows, shape.chunks))]

  def compile(self, shape: StepShape) -> StepProgram:
    """The program of that shape: compiled before, taken from the disk, or compiled now."""
    with self._lock:
      if shape in self._programs:
        return self._programs[shape]
    settings = self.settings.of_steps(chunks=shape.chunks)
    key = (shape, settings, self.spec, self._weights, str(self._weights_tree), self._state)
    start = time.perf_counter()
    run, source = self._executables.load_or_build(key, lambda: self._build(shape), f"step {shape.name}")
    _LOG.debug("%s: %s in %.1f s", shape.name, source, time.perf_counter() - start)
    memory = run.memory_analysis()
    results, prompts = self._layouts(shape, settings)
    program = StepProgram(
      shape=shape,
      run=run,
      empty=EmptyStep(shape),
      results=results,
      prompts=prompts,
      temporary_bytes=getattr(memory, "temp_size_in_bytes", 0),
    )
    with self._lock:
      self._programs[shape] = program
    return program

  def step_function(self, shape: StepShape) -> tuple[Callable[..., tuple[Any, ...]], tuple[Any, ...]]:
    """The step of that shape as a pure function of flat arrays, as `StepProgram.run` takes them, and their shapes."""
    settings = self.settings.of_steps(chunks=shape.chunks)
    results, prompts = self._layouts(shape, settings)

    def step(weights: tuple[Any, ...], state: tuple[Any, ...], packed: jax.Array, edits: StepEdits) -> tuple[Any, ...]:
      decoder = jax.tree.unflatten(self._weights_tree, weights)
      before = jax.tree.unflatten(self._state_tree, state)
      after, outputs = paged_step(decoder, before, unpack_step(packed, shape), edits, settings)
      kept = tuple(jax.tree.leaves(after))
      return kept, pack_outputs(outputs, results), pack_prompts(outputs, prompts), outputs.experts

    packed = jax.ShapeDtypeStruct((EmptyStep(shape).layout.size,), np.int32)
    edited: list[Any] = [jax.ShapeDtypeStruct(one, np.int32) for one in edits_shapes(shape, self.spec.vocab)]
    return step, (tuple(self._weights), tuple(self._state), packed, StepEdits(*edited))

  def _layouts(self, shape: StepShape, settings: StepSettings) -> tuple[Layout, Layout]:
    """Where a step's results lie, and the log-probabilities of its prompts."""
    return result_layout(shape, self.spec, settings), Layout(likely_fields(shape.rows, self.spec))

  def _build(self, shape: StepShape) -> Any:
    """Traces and compiles the program."""
    _LOG.info("compiling %s ...", shape.name)
    step, shapes = self.step_function(shape)
    return jax.jit(step, donate_argnums=(STATE,), compiler_options=graph_options()).lower(*shapes).compile()


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
