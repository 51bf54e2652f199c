import pytest
from families.cases import Checkpoints


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
  return Checkpoints(tmp_path_factory.mktemp("checkpoints"))
