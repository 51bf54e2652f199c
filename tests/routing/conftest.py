"""Fixtures of the routing tests."""

import jaxtyping
import pytest


@pytest.fixture
def own_errors():
  """Turn the run-time shape checker off, so that a call meets the library's own argument errors first."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)
