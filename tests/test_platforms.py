"""Commands are quiet on a machine that has JAX's CUDA plugin and no driver for it."""

import os

import pytest

from lynx_jax import platforms


@pytest.mark.parametrize(
  ("plugin", "driver", "asked", "expected"),
  [
    (True, False, None, "cpu"),
    (True, True, None, None),
    (False, False, None, None),
    (True, False, "cuda", "cuda"),
  ],
)
def test_the_cpu_is_taken_only_where_a_plugin_lacks_its_driver(
  monkeypatch: pytest.MonkeyPatch, plugin: bool, driver: bool, asked: str | None, expected: str | None
):
  monkeypatch.setattr(platforms, "_cuda_plugin", lambda: plugin)
  monkeypatch.setattr(platforms, "_nvidia_driver", lambda: driver)
  if asked is None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  else:
    monkeypatch.setenv("JAX_PLATFORMS", asked)
  platforms.settle_platform()
  assert os.environ.get("JAX_PLATFORMS") == expected
