import json

import pytest
import transformers

from lynx_jax.models.families import spec_from_config
from lynx_jax.models.moe import MoESpec
from tests.families.cases import DBRX
from tests.families.suite import REFUSED_BY_ALL, FamilySuite, attention_of, written_config


class TestDbrx(FamilySuite):
  cases = DBRX
  required = ("vocab_size", "d_model", "n_heads", "n_layers")
  refused = (
    *[(key, value) for key, value in REFUSED_BY_ALL if key != "hidden_act"],
    ("tie_word_embeddings", True),
  )

  def test_absent_keys_take_the_defaults_of_transformers(self):
    case = self.cases[0]
    minimal = {name: value for name, value in self.config.items() if name in self.required}
    ffn = {"ffn_hidden_size": 8, "moe_num_experts": 4, "moe_top_k": 1}
    theirs = type(case.config())(**minimal, ffn_config=ffn)
    spec = spec_from_config({"model_type": "dbrx", **minimal, "ffn_config": ffn})
    attention, moe = attention_of(spec), spec.layers[0].ffn
    assert attention.rope is not None
    assert isinstance(moe, MoESpec)
    assert (attention.kv_heads, attention.clip) == (theirs.attn_config.kv_n_heads, theirs.attn_config.clip_qkv)
    assert attention.rope.theta == theirs.rope_parameters["rope_theta"]
    assert moe.router.renormalize == (theirs.ffn_config.moe_normalize_expert_weights == 1)
    assert (spec.context, spec.tied) == (theirs.max_seq_len, theirs.tie_word_embeddings)


def rope_theta(config):
  rope = attention_of(spec_from_config(config)).rope
  assert rope is not None
  return rope.theta


def changed(part, **values):
  config = written_config(DBRX[0])
  return config | {part: config[part] | values}


@pytest.mark.parametrize("key", ["ffn_hidden_size", "moe_num_experts", "moe_top_k"])
def test_a_missing_key_of_the_experts_is_named(key):
  config = changed("ffn_config")
  del config["ffn_config"][key]
  with pytest.raises(ValueError, match=f"family 'dbrx' has no 'ffn_config.{key}'"):
    spec_from_config(config)


def test_settings_inside_that_would_be_ignored_are_refused():
  for key, value in (("moe_normalize_expert_weights", 2.0), ("ffn_act_fn", {"name": "gelu"})):
    with pytest.raises(ValueError, match=f"{key} .*not supported; supported: "):
      spec_from_config(changed("ffn_config", **{key: value}))


def test_the_base_of_the_released_files_counts_where_it_stands_alone():
  config = changed("attn_config", rope_theta=5e5)
  del config["rope_parameters"]
  assert rope_theta(config) == 5e5


def test_a_released_file_that_transformers_saved_again_says_which_base_to_change(tmp_path):
  released = changed("attn_config", rope_theta=5e5)
  del released["rope_parameters"]
  transformers.DbrxConfig.from_dict(released).save_pretrained(tmp_path)
  again = json.loads((tmp_path / "config.json").read_text())
  assert (again["attn_config"]["rope_theta"], again["rope_parameters"]["rope_theta"]) == (5e5, 1e4)
  with pytest.raises(
    ValueError, match=r"attn_config.rope_theta 500000.0 and rope_parameters.rope_theta 10000.0: .*set "
  ):
    spec_from_config(again)
  # Both remedies of the message work.
  again["rope_parameters"]["rope_theta"] = 500000.0
  assert rope_theta(again) == 5e5
  again["rope_parameters"]["rope_theta"] = 1e4
  del again["attn_config"]["rope_theta"]
  assert rope_theta(again) == 1e4
