"""Loads the native library and registers its custom calls with XLA, or says why it cannot be used."""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pallas_kernels.cpu.build import LIBRARY, REASON, fingerprint

_PATH = Path(__file__).parent / LIBRARY
_REASON = _PATH.with_name(REASON)
_POINTER = ctypes.c_void_p
# As `WeightType` of products.h counts them.
_WEIGHTS = ("bfloat16", "float32", "int8", "int4")
_CALLS = (
  "append_heads", "append_latents", "chunk_attention", "decode_attention", "expert_ffn", "greedy_token",
  "latent_attention", "prompt_heads", "rms_norm", "row_matmul", "select_experts", "take_rows",
)  # fmt: skip


@functools.cache
def _library() -> ctypes.CDLL | str:
  """The library with its calls registered, or why there is none."""
  if not _PATH.is_file():
    why = _REASON.read_text().strip() if _REASON.is_file() else "this installation was made without it"
    return f"the native library is not built: {why}"
  try:
    library = ctypes.CDLL(str(_PATH))
    # A call from an older library would read other arguments than it is given.
    if _other_sources(library):
      return "the native library was built from other sources: run `python -m pallas_kernels.cpu.build`"
    library.lynx_instruction_set.restype = ctypes.c_char_p
    library.lynx_read_bandwidth.restype = ctypes.c_double
    library.lynx_read_bandwidth.argtypes = (ctypes.c_int64, ctypes.c_int)
    library.lynx_product_speed.restype = ctypes.c_double
    library.lynx_product_speed.argtypes = (ctypes.c_int, *4 * (ctypes.c_int64,))
    library.lynx_quantize.argtypes = (
      _POINTER, ctypes.c_int, *4 * (ctypes.c_int64,), _POINTER, ctypes.c_int64, ctypes.c_int, _POINTER, _POINTER
    )  # fmt: skip
    library.lynx_interleave.argtypes = (*4 * (ctypes.c_int64,), *4 * (_POINTER,))
    for call in _CALLS:
      handler = jax.ffi.pycapsule(getattr(library, f"lynx_{call}"))
      jax.ffi.register_ffi_target(f"lynx_{call}", handler, platform="cpu")
  except Exception as error:  # whatever a foreign library or another XLA brings: there is a fallback for it
    return f"the native library does not load: {type(error).__name__}: {str(error).splitlines()[0]}"
  return library


def _other_sources(library: ctypes.CDLL) -> bool:
  sources = fingerprint()
  if not hasattr(library, "lynx_sources"):
    return True
  library.lynx_sources.restype = ctypes.c_uint
  return sources != 0 and library.lynx_sources() != sources


def unavailable() -> str | None:
  """Why the native library cannot be used, or None."""
  library = _library()
  return library if isinstance(library, str) else None


def _loaded() -> ctypes.CDLL:
  library = _library()
  if isinstance(library, str):
    raise RuntimeError(library)
  return library


def instruction_sets() -> tuple[str, ...]:
  """Those that were built and that this processor has, the best first; none where there is no library."""
  names = []
  if unavailable() is None:
    while (name := _loaded().lynx_instruction_set(len(names))) is not None:
      names.append(name.decode())
  return tuple(names)


def use_threads(count: int | None) -> None:
  """Sets how many threads the native calls of this process run on; None is all processors that it may use.

  Results do not depend on it. Does nothing where there is no library.

  Raises:
    ValueError: `count` is not at least 1.
  """
  if count is not None and count < 1:
    raise ValueError(f"count is {count}: give at least one thread, or None for all processors")
  if unavailable() is None:
    _loaded().lynx_set_thread_count(count or 0)


def threads_used() -> int:
  """How many threads native calls run on; 1 where there is no library."""
  return _loaded().lynx_thread_count() if unavailable() is None else 1


def read_bandwidth(size: int = 1 << 29, passes: int = 5) -> float | None:
  """Bytes a second that the threads of native calls read from memory: the best of several passes over `size` bytes.

  Each pass reads in four ways, which ask for memory from not at all to 16 KB ahead. The memory is kept for the next
  call, until the process ends: a host may take what is given back from its guest, at the expense of what runs then.

  None where there is no library.
  """
  return _loaded().lynx_read_bandwidth(size, passes) or None if unavailable() is None else None


def product_speed(
  rows: int, *, weights: str = "bfloat16", inner: int = 1024, size: int = 1 << 29, read: int = 1 << 29
) -> float | None:
  """Bytes of weights a second that native products of `rows` rows take; None where there is no library.

  Args:
    rows: rows that meet each weight.
    weights: bfloat16, float32, int8 or int4.
    inner: inputs of an output.
    size: bytes of weights that are gone through, again and again: few come from caches, many from memory.
    read: bytes to go through in all.

  Raises:
    ValueError: a kind of weights that is not known.
  """
  if weights not in _WEIGHTS:
    raise ValueError(f"weights is {weights!r}: choose from {', '.join(_WEIGHTS)}")
  if unavailable() is not None:
    return None
  return _loaded().lynx_product_speed(_WEIGHTS.index(weights), rows, inner, size, read) or None


def call_on_arrays(name: str, *arguments: Any) -> int | None:
  """Calls a function of the library on NumPy arrays, which must be contiguous; None where there is no library.

  Raises:
    MemoryError: the function found no memory.
  """
  if unavailable() is not None:
    return None
  given = (one.ctypes.data if isinstance(one, np.ndarray) else one for one in arguments)
  done = getattr(_loaded(), f"lynx_{name}")(*given)
  if done < 0:
    raise MemoryError(f"{name}: no memory")
  return done


def describe() -> str:
  """One line for people: what runs natively on this machine, or why nothing does."""
  return unavailable() or f"native code with {instruction_sets()[0]} on {threads_used()} threads"


def cpu_call(
  name: str,
  results: Sequence[jax.ShapeDtypeStruct],
  *arrays: jax.Array,
  instructions: str | None = None,
  aliases: dict[int, int] | None = None,
  **attributes: float,
) -> Sequence[jax.Array]:
  """Calls a native function from a traced program.

  Args:
    name: one of those registered here.
    results: shapes and dtypes.
    *arrays: as they lie in memory, row-major.
    instructions: an instruction set by name; None is the best of this processor's.
    aliases: arguments whose memory a result takes over, by position.
    **attributes: whole numbers and floats.

  Raises:
    ValueError: this processor lacks the instruction set, or it was not built.
  """
  sets = instruction_sets()
  if instructions is not None and instructions not in sets:
    raise ValueError(f"instructions is {instructions!r}: this machine has {', '.join(sets) or 'no native library'}")
  _loaded()
  call = jax.ffi.ffi_call(
    f"lynx_{name}", tuple(results), vmap_method="sequential", input_output_aliases=aliases, has_side_effect=False
  )
  given: dict[str, Any] = {"instructions": np.int64(sets.index(instructions) if instructions else 0)}
  given |= {key: np.int64(value) if isinstance(value, int) else np.float32(value) for key, value in attributes.items()}
  return call(*arrays, **given)
