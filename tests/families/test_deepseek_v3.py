"""DeepSeek-V3 against transformers' class, which computes what the code released with the checkpoints does.

That code holds a multi-token prediction layer besides, which transformers and Lynx leave out when decoding.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import lynx_jax
from checkpoints_convert.errors import CheckpointError
from lynx_jax.models.checkpoints import convert
from lynx_jax.models.moe import MoE
from tests.checkpoints_convert.tampering import with_tensors
from tests.families.cases import DEEPSEEK_V3, checkpoint, reference
from tests.families.latent_suite import LATENT_REFUSED, LatentSuite


class TestDeepseekV3(LatentSuite):
  cases = DEEPSEEK_V3
  refused = (*LATENT_REFUSED, ("topk_method", "greedy"))


def bias_of(path: Path, **options) -> jnp.ndarray:
  ffn = lynx_jax.load(path, **options).decoder.layers[1].ffn
  assert isinstance(ffn, MoE)
  assert ffn.selection_bias is not None
  return ffn.selection_bias[...]


def test_the_correction_bias_is_float32_whatever_the_weights_are(tmp_path: Path):
  exact = reference(DEEPSEEK_V3[0]).get_buffer("model.layers.1.mlp.gate.e_score_correction_bias").numpy()
  convert(checkpoint(DEEPSEEK_V3[0], "bfloat16"), tmp_path / "orbax")
  for loaded in (
    bias_of(checkpoint(DEEPSEEK_V3[0], "bfloat16")),
    bias_of(checkpoint(DEEPSEEK_V3[0]), dtype="bfloat16"),
    bias_of(tmp_path / "orbax"),
    bias_of(tmp_path / "orbax", dtype="float16"),
  ):
    assert loaded.dtype == jnp.float32
    np.testing.assert_array_equal(loaded, exact)


def test_the_layer_that_predicts_a_second_token_is_left_out_and_no_other(tmp_path: Path):
  def one_more(index):
    def change(tensors):
      last = {name: array for name, array in tensors.items() if name.startswith("model.layers.1.")}
      return tensors | {name.replace("layers.1.", f"layers.{index}."): array for name, array in last.items()}

    return change

  lynx_jax.load(with_tensors(DEEPSEEK_V3[0], tmp_path / "two", one_more(2)))
  with pytest.raises(CheckpointError, match=r"that nothing uses: model\.layers\.3\."):
    lynx_jax.load(with_tensors(DEEPSEEK_V3[0], tmp_path / "three", one_more(3)))
