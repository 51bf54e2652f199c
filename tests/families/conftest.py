import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
  """Runs a family suite's tests over the cases that the suite lists."""
  if "case" in metafunc.fixturenames and metafunc.cls is not None:
    metafunc.parametrize("case", metafunc.cls.cases, ids=str)
