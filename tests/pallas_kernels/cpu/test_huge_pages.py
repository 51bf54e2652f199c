"""Where large arrays lie, as the kernel describes its own mappings, and that JAX takes them as they are."""

import mmap
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from pallas_kernels.cpu.huge_pages import aligned_empty

SMAPS = Path("/proc/self/smaps")
needs_smaps = pytest.mark.skipif(
  not (SMAPS.is_file() and hasattr(mmap, "MADV_HUGEPAGE")), reason="needs Linux with huge pages"
)


def flags_of(address: int) -> set[str]:
  """The kernel's flags of the mapping that holds `address`."""
  inside = False
  for line in SMAPS.read_text().splitlines():
    name, _, rest = line.partition(" ")
    if not name.endswith(":"):
      first, last = (int(part, 16) for part in name.split("-"))
      inside = first <= address < last
    elif inside and name == "VmFlags:":
      return set(rest.split())
  raise AssertionError(f"no mapping holds {address:#x}")


@needs_smaps
def test_a_large_array_lies_in_private_memory_that_may_have_huge_pages():
  array = aligned_empty((3 << 20,), np.int32)
  assert array.ctypes.data % (2 << 20) == 0
  flags = flags_of(array.ctypes.data)
  # hg: advised; sh would be shared memory, which has none by default.
  assert "hg" in flags
  assert "sh" not in flags


@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (1 << 19,), (3, 1 << 18)])
@pytest.mark.parametrize("dtype", [np.float16, np.dtype(ml_dtypes.bfloat16), "int32"])
def test_an_array_is_whole_and_jax_takes_it_over(shape, dtype):
  array = aligned_empty(shape, dtype)
  assert array.shape == shape
  assert array.dtype == np.dtype(dtype)
  assert array.flags.c_contiguous
  assert array.flags.writeable
  array[...] = 1
  placed = jax.device_put(array, jax.devices("cpu")[0])
  np.testing.assert_array_equal(np.asarray(placed), np.ones(shape, dtype))
  if array.size:
    assert placed.unsafe_buffer_pointer() == array.ctypes.data


@needs_smaps
def test_a_large_array_goes_back_to_the_system():
  array = aligned_empty((3 << 20,), np.int32)
  address = array.ctypes.data
  assert flags_of(address)
  del array
  with pytest.raises(AssertionError, match="no mapping"):
    flags_of(address)
