"""Launches of Pallas kernels: compiled through Triton on NVIDIA GPUs, interpreted on every other platform."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from pallas_kernels.gpu.triton_backend import pl, plgpu


def call(
  kernel: Callable[..., None],
  *arrays: jax.Array,
  grid: tuple[int, ...],
  out_shape: Any,
  name: str,
  num_warps: int,
  num_stages: int = 2,
  input_output_aliases: Mapping[int, int] | None = None,
  interpreted: Callable[..., None] | None = None,
) -> Any:
  """Runs `kernel` over `grid` on whole arrays, as refs, and returns what it writes.

  Args:
    kernel: a function of one ref an array, then one ref a result.
    arrays: the inputs.
    grid: programs along each axis.
    out_shape: a pytree of `jax.ShapeDtypeStruct`.
    name: the kernel's name in profiles and gates.
    num_warps: warps of a program.
    num_stages: loads in flight in a loop over a product's inner axis.
    input_output_aliases: inputs whose memory a result takes over, by position.
    interpreted: what is interpreted, where it is another function than `kernel`: instructions of a GPU have no
      interpreter.
  """
  prepared = functools.partial(
    pl.pallas_call,
    grid=grid,
    out_shape=out_shape,
    name=name,
    input_output_aliases=dict(input_output_aliases or {}),
  )
  compiled = prepared(kernel, compiler_params=plgpu.CompilerParams(num_warps=num_warps, num_stages=num_stages))
  return jax.lax.platform_dependent(*arrays, cuda=compiled, default=prepared(interpreted or kernel, interpret=True))
