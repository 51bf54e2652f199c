"""What holds whatever the family: unknown ones, and where the end of a text is written."""

from pathlib import Path

import pytest

from lynx_jax.models import families
from lynx_jax.models.families import FAMILIES, spec_from_config
from tests.families.cases import MIXTRAL
from tests.families.suite import written_config


def test_an_unknown_family_is_named_beside_those_supported():
  with pytest.raises(ValueError, match=r"model_type 'llama'; supported: dbrx, .*moefied_llama, olmoe, .*qwen3_moe"):
    spec_from_config({"model_type": "llama"})


def test_a_config_without_a_family_is_an_error():
  with pytest.raises(ValueError, match="model_type None; supported: "):
    spec_from_config({"hidden_size": 4})


def test_every_file_of_the_folder_that_is_a_family_is_found():
  folder = Path(families.__file__).parent
  files = {path.stem for path in folder.glob("*.py") if "\nFAMILY = Family(" in path.read_text()}
  assert files == FAMILIES.keys()
  assert len(files) == 12


@pytest.mark.parametrize(
  ("config", "generation", "expected"),
  [(2, None, (2,)), ([2, 3], None, (2, 3)), (None, None, ()), (2, [5, 6], (5, 6)), (2, 4, (4,))],
)
def test_the_end_of_text_comes_from_the_generation_config_first(config, generation, expected):
  generation_config = None if generation is None else {"eos_token_id": generation}
  fields = written_config(MIXTRAL[0]) | {"eos_token_id": config}
  assert spec_from_config(fields, generation_config).stop_ids == expected


def test_a_generation_config_that_is_silent_leaves_the_end_of_text():
  assert spec_from_config(written_config(MIXTRAL[0]), {"temperature": 1.0}).stop_ids == (2,)
