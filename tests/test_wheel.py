"""The wheel alone, in an environment of its own: it generates with the embedded model."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("lynx_jax", "pallas_kernels", "checkpoints_convert")


def copy_of_the_source(folder: Path) -> Path:
  """What a wheel is built from. A build leaves its library beside the sources, where other tests use theirs."""
  for package in PACKAGES:
    shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("*.so*", "__pycache__"))
  for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, folder)
  return folder


@pytest.mark.slow
def test_an_installed_wheel_generates_outside_the_tree(tmp_path):
  build = [
    sys.executable,
    "-m",
    "build",
    "--wheel",
    "--outdir",
    str(tmp_path),
    str(copy_of_the_source(tmp_path / "source")),
  ]
  subprocess.run(build, check=True, capture_output=True)
  (wheel,) = tmp_path.glob("*.whl")
  names = zipfile.ZipFile(wheel).namelist()
  assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)
  assert "lynx_jax/embedded/model.safetensors" in names
  assert "lynx_jax/testing/__init__.py" in names
  assert not any(name.endswith((".cc", ".h")) for name in names)
  assert all(f"{package}/py.typed" in names for package in PACKAGES)

  if shutil.which("c++"):
    assert "pallas_kernels/cpu/liblynx.so" in names
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    assert not wheel.name.endswith("-any.whl")

  environment = tmp_path / "environment"
  subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
  python = environment / "bin" / "python"
  subprocess.run([str(python), "-m", "pip", "install", "--quiet", str(wheel)], check=True, capture_output=True)
  done = subprocess.run(
    [str(environment / "bin" / "lynx-jax"), "generate", "The man is", "--max-new-tokens", "4"],
    cwd=tmp_path, capture_output=True, text=True,
    env={"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu", "LYNX_JAX_COMPILATION_CACHE": "off"},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("The man is")
  explained = subprocess.run(
    [str(python), "-c", "import pallas_kernels; print(pallas_kernels.explain())"],
    cwd=tmp_path, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"},
  ).stdout  # fmt: skip
  assert ("on CPUs: native code with" in explained) == bool(shutil.which("c++")), explained
  program = "import lynx_jax, sys; print(lynx_jax.__file__, 'torch' in sys.modules)"
  where = subprocess.run([str(python), "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
  assert where.stdout.startswith(str(environment))
  assert where.stdout.endswith("False\n")
