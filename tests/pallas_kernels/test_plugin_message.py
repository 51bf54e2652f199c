"""JAX's CUDA plugin on a machine without a driver: its traceback is not shown, and other plugins' are."""

import os
import subprocess
import sys

import pytest

from pallas_kernels.gpu import plugin_message

pytestmark = pytest.mark.skipif(plugin_message._has_driver(), reason="the machine has an NVIDIA driver")


def said(tmp_path, plugin, imported):
  """Standard error of a program that starts JAX with a plugin that fails."""
  package = tmp_path / "jax_plugins" / plugin
  package.mkdir(parents=True)
  (package / "__init__.py").write_text("def initialize():\n  raise RuntimeError('no driver of the test')\n")
  variables = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
  paths = [str(tmp_path), *sys.path]
  done = subprocess.run(
    [sys.executable, "-c", f"import {imported}, jax; print(jax.devices()[0].platform)"],
    env=variables | {"PYTHONPATH": os.pathsep.join(paths)},
    capture_output=True,
    text=True,
    check=True,
    timeout=300,
  )
  assert done.stdout.split() == ["cpu"]
  return done.stderr


def test_the_cuda_plugins_traceback_is_not_shown(tmp_path):
  assert "no driver of the test" in said(tmp_path / "without", "xla_cuda99", "numpy")
  assert "Traceback" not in said(tmp_path / "with", "xla_cuda99", "pallas_kernels")


def test_another_plugins_traceback_is(tmp_path):
  assert "no driver of the test" in said(tmp_path, "xla_other", "pallas_kernels")
