"""Where arrays are copied to, as the kernel describes its own mappings."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from pallas_kernels.huge_pages import in_huge_pages

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
  array = np.arange(3 << 20, dtype=np.int32)
  copy = in_huge_pages(array)
  np.testing.assert_array_equal(copy, array)
  assert copy.ctypes.data % (2 << 20) == 0
  flags = flags_of(copy.ctypes.data)
  # hg: advised; sh would be shared memory, which has none by default.
  assert "hg" in flags
  assert "sh" not in flags


def test_a_small_array_stays_where_it_is():
  array = np.zeros(1000, np.float32)
  assert in_huge_pages(array) is array
