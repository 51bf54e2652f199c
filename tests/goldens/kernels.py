"""What the compiler makes of decode loops: how many kernels are launched, and bytes of registers that they spill.

`tests/engine` compiles loops anyway and hands the reports to `same_as_recorded`, so nothing is compiled twice. The
gates of single ops state their numbers themselves. Both numbers depend on the compiler, so they are compared under the
version of jax that they were recorded with. Elsewhere the gates alone judge.
"""

import os
import subprocess
import sys

import jax

from pallas_kernels import gates
from tests.goldens import stored

NAME = "kernels"
TESTS = ("tests/goldens/test_kernels.py", "tests/engine/test_decode_loop_gates.py")
_WRITING = "LYNX_GOLDENS"
"""Set to `write`, tests record what they find. They must run in one process then."""


def same_as_recorded(group: str, key: str, report: gates.Report) -> None:
  """Asserts that `report` has the recorded launches and spills.

  Args:
    group: what the programs have in common.
    key: names the program in its group: model, target, layers, policy.
    report: what the compiler made of it.
  """
  found = {
    "launches": len(gates.kernel_launches(report)),
    "spills": sum(k.spill_bytes for k in report.kernels.values()),
  }
  recorded = stored.read(NAME)
  if os.environ.get(_WRITING) == "write":
    recorded.setdefault(group, {})[key] = found
    stored.write(NAME, recorded)
  elif recorded["jax"] == jax.__version__:
    assert recorded[group][key] == found, f"{group}, {key}: python -m tests.goldens --help says when to record again"


def run(*, write: bool) -> bool:
  """Runs the tests that compare, or record; returns whether all passed."""
  environment = os.environ | ({_WRITING: "write"} if write else {})
  if write:
    stored.write(NAME, {"jax": jax.__version__})
  command = [sys.executable, "-m", "pytest", "-q", "-n", "0", *TESTS]
  return subprocess.run(command, env=environment, check=False).returncode == 0
