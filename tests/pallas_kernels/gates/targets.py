"""The GPUs that tests of gates compile for: one in every run, the others where slow tests run too."""

import pytest

from pallas_kernels import gates

TARGETS = [pytest.param(target, marks=() if target == "h100" else pytest.mark.slow) for target in gates.TARGETS]
