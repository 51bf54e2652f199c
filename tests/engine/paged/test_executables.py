"""Executables on the disk: found again, built again where they are damaged, and missed where anything has changed."""

import logging

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from lynx_jax.engine.paged.executables import Executables, forget_executables

DIRECTORY, LEAST_SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


def build():
  return jax.jit(lambda x: x * 2).lower(jax.ShapeDtypeStruct((3,), jnp.float32)).compile()


def never():
  pytest.fail("built again")


@pytest.fixture(autouse=True)
def _fresh():
  forget_executables()
  yield
  forget_executables()


def test_a_program_is_found_in_memory_and_on_the_disk(tmp_path):
  kept = Executables(tmp_path)
  assert kept.load_or_build("key", build, "twice")[1] == "compiled"
  assert kept.load_or_build("key", never, "twice")[1] == "from memory"
  forget_executables()
  found, source = Executables(tmp_path).load_or_build("key", never, "twice")
  assert source == "from disk"
  assert found(jnp.ones(3, jnp.float32)).tolist() == [2.0, 2.0, 2.0]
  assert Executables(tmp_path).load_or_build("another", build, "twice")[1] == "compiled"


def test_a_damaged_file_is_said_and_built_again(tmp_path, caplog):
  Executables(tmp_path).load_or_build("key", build, "twice")
  (file,) = tmp_path.glob("*.step")
  file.write_bytes(file.read_bytes()[:100])
  forget_executables()
  with caplog.at_level(logging.WARNING):
    assert Executables(tmp_path).load_or_build("key", build, "twice")[1] == "compiled"
  assert "twice: the executable kept at" in caplog.text
  forget_executables()
  assert Executables(tmp_path).load_or_build("key", never, "twice")[1] == "from disk"


def test_a_directory_that_cannot_be_made_is_said_and_left(tmp_path, caplog):
  (tmp_path / "file").write_text("no directory", encoding="utf-8")
  with caplog.at_level(logging.WARNING):
    assert Executables(tmp_path / "file" / "steps").load_or_build("key", build, "twice")[1] == "compiled"
  assert "twice" in caplog.text


def test_what_is_stored_was_not_in_jax_own_cache(tmp_path):
  """JAX would give out what it has, and on a CPU that cannot be stored a second time."""
  before = {name: jax.config.values[name] for name in (DIRECTORY, LEAST_SECONDS)}
  jax.config.update(DIRECTORY, str(tmp_path))
  jax.config.update(LEAST_SECONDS, 0.0)
  try:
    assert Executables(None).load_or_build("key", build, "twice")[1] == "compiled"
    assert [path.name for path in tmp_path.iterdir()] == ["steps"]
    # JAX's cache is on again.
    jax.jit(lambda x: x * 3).lower(jax.ShapeDtypeStruct((3,), jnp.float32)).compile()
    assert any(path.name.endswith("-cache") for path in tmp_path.iterdir())
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
