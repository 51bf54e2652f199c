"""Every test runs with shapes and dtypes checked at call time, and with JAX's implicit promotions off."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight CPU devices for the tests that ask for them (`eight_devices`). Others run on the first one, as fast as before.
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
# Tests of the command line run in this process, whose JAX keeps no programs on the disk.
os.environ.setdefault("LYNX_JAX_COMPILATION_CACHE", "off")
# Names of models on the hub are looked for in its cache, and never asked for.
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import jax
import jaxtyping
import pytest
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (the hook looks it up by name)

install_import_hook(["lynx_jax", "pallas_kernels", "checkpoints_convert"], "tests.typecheck.check")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compilation makes first examples slow, so no deadline; derandomised, so that CI is deterministic.
hypothesis.settings.register_profile("lynx_jax", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("lynx_jax")


@pytest.fixture
def own_errors():
  """Turns the run-time shape checker off, so that a call meets the library's own argument errors first."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def eight_devices():
  """Eight devices of one kind; they are forced on CPUs, and share the machine's cores."""
  devices = jax.devices("cpu")
  assert len(devices) >= 8, "XLA_FLAGS forces fewer than 8 CPU devices"
  return devices[:8]


def pytest_collection_modifyitems(items):
  """Tests of a GPU are skipped where JAX has no NVIDIA GPU, and tests of C++ for CPUs where it has one."""
  gpu = jax.default_backend() == "gpu"
  reason = "native code is for CPUs" if gpu else "needs an NVIDIA GPU: run `make gpu` on a machine that has one"
  for item in items:
    if _is_native(item) if gpu else item.get_closest_marker("gpu"):
      item.add_marker(pytest.mark.skip(reason=reason))


def _is_native(item):
  parameters = getattr(getattr(item, "callspec", None), "params", {})
  return (
    "instructions" in parameters or parameters.get("implementation") == "cpu" or "pallas_kernels/cpu/" in item.nodeid
  )


# Every compiled program maps memory of its own; Linux gives a process 65,530 maps, and the compiler aborts at the next.
MOST_MAPS = 20_000


def pytest_runtest_teardown():
  """Lets compiled programs go once a process has many."""
  maps = Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
    from lynx_jax.engine.paged.executables import forget_executables

    forget_executables()
    jax.clear_caches()
