"""One server for all tests that need no other."""

import pytest

from tests.serve.running import running


@pytest.fixture(scope="session")
def serving():
  """A server with the usual settings."""
  with running() as server:
    yield server
