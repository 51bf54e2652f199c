"""One server a module."""

import pytest

from tests.serve.running import running


@pytest.fixture(scope="module")
def serving():
  """A server with the usual settings."""
  with running() as server:
    yield server
