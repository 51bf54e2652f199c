"""What settings stand for where they are not given."""

import subprocess
import sys

import pytest

from lynx_jax import EngineSettings


@pytest.mark.parametrize(
  ("given", "mixed"),
  [
    ({}, (128, 512)),
    ({"deterministic": True}, (128,)),
    ({"slots": 200}, (512,)),
    ({"slots": 600}, (1200,)),
    ({"mixed": (64,)}, (64,)),
  ],
)
def test_the_sizes_of_steps_that_read_prompts_suit_a_cpu(given, mixed):
  assert EngineSettings(**given).step_programs.mixed == mixed


def test_no_size_at_all_is_refused():
  with pytest.raises(ValueError, match=r"mixed is \(\): expected rising sizes, at least one"):
    EngineSettings(mixed=())


def test_a_step_on_a_cpu_has_it_alone():
  assert EngineSettings().steps_ahead == 0
  assert EngineSettings(run_ahead=2).steps_ahead == 2


def test_settings_are_made_without_a_device():
  """A program may make them before it says which devices there are (`jax.distributed.initialize`)."""
  code = (
    "import lynx_jax.engine.core, lynx_jax.engine.engine; from jax._src import xla_bridge; "
    "lynx_jax.EngineSettings(deterministic=True); print(xla_bridge.backends_are_initialized())"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout == "False\n"
