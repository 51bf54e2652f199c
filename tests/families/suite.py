"""What every family must hold to: transformers' logits and defaults, both spellings, errors with names."""

import json
from typing import Any, ClassVar

import jax
import numpy as np
import pytest

import lynx_jax
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec
from tests.families.cases import Case, checkpoint, random_tokens, reference_logits

# Of the largest logit's magnitude: float32 sums in another order differ by about 1e-6.
TOLERANCE = 1e-4


def written_config(case: Case) -> dict[str, Any]:
  """config.json as transformers writes it for the case."""
  return json.loads((checkpoint(case) / "config.json").read_text())


def attention_of(spec: DecoderSpec, layer: int = 0) -> AttentionSpec:
  """How a layer attends, in families that keep keys and values of every head."""
  attention = spec.layers[layer].attention
  assert isinstance(attention, AttentionSpec)
  return attention


class FamilySuite:
  """Subclasses give their cases, the keys that a config.json cannot do without, and settings to refuse.

  `renormalizes` is what a router does where no key says it.
  """

  cases: ClassVar[tuple[Case, ...]]
  required: ClassVar[tuple[str, ...]]
  refused: ClassVar[tuple[tuple[str, Any], ...]]
  renormalizes: ClassVar[bool] = True

  @property
  def config(self) -> dict[str, Any]:
    return written_config(self.cases[0])

  def test_logits_equal_those_of_transformers(self, case: Case):
    tokens = random_tokens(case, rows=2, length=19)
    ours = np.asarray(jax.jit(lynx_jax.forward)(lynx_jax.load(checkpoint(case)), tokens))
    theirs = reference_logits(case, tokens)
    assert np.abs(ours - theirs).max() < TOLERANCE * np.abs(theirs).max()

  def test_older_spellings_mean_the_same(self, case: Case):
    config = written_config(case)
    older = dict(config)
    rope = dict(older.pop("rope_parameters"))
    older |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": None}
    if (kind := rope.pop("rope_type")) != "default":
      older["rope_scaling"] = rope | {"type": kind}
    for new, old in (("num_local_experts", "num_experts"), ("num_experts", "num_local_experts")):
      if new in config:
        older[old] = older.pop(new)
    assert spec_from_config(older) == spec_from_config(config)

  def test_absent_keys_take_the_defaults_of_transformers(self):
    case = self.cases[0]
    minimal = {name: value for name, value in self.config.items() if name in self.required}
    minimal["num_attention_heads"] = 16  # as many as the most key and value heads of any family's defaults
    theirs = type(case.config())(**minimal)
    spec = spec_from_config({"model_type": case.family, **minimal, "eos_token_id": None})
    attention, ffn = attention_of(spec), spec.layers[0].ffn
    assert attention.rope is not None
    assert isinstance(ffn, MoESpec)
    assert attention.kv_heads == theirs.num_key_value_heads
    assert attention.rope.theta == theirs.rope_parameters["rope_theta"]
    assert attention.output_bias == getattr(theirs, "attention_bias", False)
    assert attention.qkv_bias == getattr(theirs, "qkv_bias", attention.output_bias)
    assert attention.clip == getattr(theirs, "clip_qkv", None)
    assert attention.window == (getattr(theirs, "sliding_window", None) or None)
    assert attention.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    assert ffn.router.renormalize == getattr(theirs, "norm_topk_prob", self.renormalizes)
    assert (spec.norm_eps, spec.tied) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
    assert spec.context == theirs.max_position_embeddings

  def test_the_default_end_of_text_is_that_of_transformers(self):
    case = self.cases[0]
    config = {**self.config, "vocab_size": 60000}
    del config["eos_token_id"]
    theirs = type(case.config())().eos_token_id
    assert spec_from_config(config).stop_ids == (() if theirs is None else (theirs,))

  def test_a_missing_key_is_named(self):
    for key in self.required:
      config = {name: value for name, value in self.config.items() if name != key}
      with pytest.raises(ValueError, match=f"family '{self.cases[0].family}' has no .*'{key}'"):
        spec_from_config(config)

  def test_an_unsupported_setting_is_named_with_its_value(self):
    for key, value in self.refused:
      with pytest.raises(ValueError, match=f"{key} .*not supported; supported: ") as raised:
        spec_from_config({**self.config, key: value})
      assert self.cases[0].family in str(raised.value)


REFUSED_BY_ALL = (
  ("hidden_act", "gelu"),
  ("rope_parameters", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}),
  ("rope_parameters", {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}),
  ("rope_parameters", {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 2]}),
  ("rope_scaling", {"type": "ntk", "factor": 2.0}),
  ("partial_rotary_factor", 0.5),
)
REQUIRED_BY_ALL = (
  "vocab_size",
  "hidden_size",
  "num_hidden_layers",
  "num_attention_heads",
  "num_experts_per_tok",
)
