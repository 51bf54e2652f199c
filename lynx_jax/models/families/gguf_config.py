"""The config.json that a GGUF file's metadata amounts to, by architecture as llama.cpp names it.

What llama.cpp knows of an architecture without being told, such as whether gates are divided by their sum, is stated
here. References: llama.cpp's `conversion/*.py`, which write the metadata, and `src/models/*.cpp`, which read it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from checkpoints_convert.rules import Shapes
from pallas_kernels.checks import number, require, shown, whole_number

Config = dict[str, Any]


class Metadata:
  """What a file says of its model, key by key; every reader raises ValueError, with the key and its value.

  Attributes:
    architecture: llama.cpp's name of the kind of model, which keys begin with.
    shapes: of the file's tensors, by name.
  """

  def __init__(self, values: Mapping[str, Any], shapes: Shapes):
    self.values, self.shapes = values, shapes
    self.architecture = str(values.get("general.architecture"))

  def name_of(self, key: str) -> str:
    """The whole key."""
    return f"{self.architecture}.{key}"

  def given(self, key: str) -> bool:
    """Whether the file has the key."""
    return self.name_of(key) in self.values

  def whole(self, key: str, default: int | None = None) -> int:
    """A whole number, or `default`; an error where the file has none and there is no default."""
    return whole_number(self.name_of(key), self._value(key, default), least=0, most=2**31 - 1)

  def number(self, key: str, default: float | None = None) -> float:
    """A number, or `default`; an error where the file has none and there is no default."""
    return number(self.name_of(key), self._value(key, default))

  def word(self, key: str) -> str | None:
    """A word, or None."""
    value = self.values.get(self.name_of(key))
    require(value is None or isinstance(value, str), self.name_of(key), value, "a word")
    return value

  def flag(self, key: str) -> bool:
    """Whether the file sets the key to true."""
    value = self.values.get(self.name_of(key), False)
    require(isinstance(value, bool), self.name_of(key), value, "true or false")
    return value

  def only(self, key: str, supported: tuple[Any, ...], default: Any) -> None:
    """Checks a setting that is not varied here."""
    value = self.values.get(self.name_of(key), default)
    plain = isinstance(value, int | float | str) and value in supported
    require(plain, self.name_of(key), value, " or ".join(map(repr, supported)), "other values are not supported")

  def _value(self, key: str, default: float | None) -> Any:
    value = self.values.get(self.name_of(key), default)
    if value is None:
      raise ValueError(f"the file does not say {self.name_of(key)!r}: convert the model again with a newer llama.cpp")
    return value


def config_from_gguf(values: Mapping[str, Any], shapes: Shapes) -> Config:
  """The config.json of the model that a file's metadata and the shapes of its tensors describe.

  Raises ValueError for an architecture or a setting that is not supported, naming it.
  """
  file = Metadata(values, shapes)
  if file.architecture not in ARCHITECTURES:
    raise ValueError(
      f"general.architecture is {shown(file.architecture)}: not supported; supported: {', '.join(ARCHITECTURES)}"
    )
  scaled = sorted(name for name in shapes if name.startswith("rope_f"))
  if scaled:
    raise ValueError(
      f"tensor {scaled[0]} scales rotary frequencies, and the file does not say how it was made: not supported; "
      "load the model's safetensors"
    )
  return ARCHITECTURES[file.architecture](file)


def _common(file: Metadata) -> Config:
  """What all architectures say alike."""
  width, heads = file.whole("embedding_length"), file.whole("attention.head_count")
  embedding = file.shapes.get("token_embd.weight")
  if embedding is None:
    raise ValueError("tensor token_embd.weight is missing: the file holds no whole model; download it again")
  stops = [file.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
  return {
    # A table may have more rows than the tokenizer has tokens.
    "vocab_size": embedding[0],
    "hidden_size": width,
    "num_hidden_layers": file.whole("block_count") - file.whole("nextn_predict_layers", 0),
    "num_attention_heads": heads,
    "num_key_value_heads": file.whole("attention.head_count_kv", heads),
    "max_position_embeddings": file.whole("context_length"),
    "tie_word_embeddings": "output.weight" not in file.shapes,
    "eos_token_id": list(dict.fromkeys(one for one in stops if one is not None)),
  }


def _rms(file: Metadata) -> Config:
  """The common part of models with RMS norms and heads that turn whole."""
  common = _common(file)
  head_dim = file.whole("attention.key_length", common["hidden_size"] // max(common["num_attention_heads"], 1))
  for key in ("attention.value_length", "rope.dimension_count"):
    file.only(key, (head_dim,), head_dim)
  return {
    **common,
    "head_dim": head_dim,
    "rms_norm_eps": file.number("attention.layer_norm_rms_epsilon"),
    "rope_parameters": _rope(file),
  }


def _rope(file: Metadata) -> Config:
  """The rotary embedding, as transformers 5 has it."""
  theta = {"rope_theta": file.number("rope.freq_base", 1e4)}
  match file.word("rope.scaling.type"):
    case None | "none":
      return {"rope_type": "default", **theta}
    case "linear":
      return {"rope_type": "linear", "factor": file.number("rope.scaling.factor"), **theta}
    case "yarn":
      more = {
        ours: file.number(f"rope.scaling.{theirs}")
        for ours, theirs in (
          ("attention_factor", "yarn_attn_factor"), ("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow"),
        )
        if file.given(f"rope.scaling.{theirs}")
      }  # fmt: skip
      return {
        "rope_type": "yarn",
        "factor": file.number("rope.scaling.factor"),
        "original_max_position_embeddings": file.whole("rope.scaling.original_context_length"),
        **theta,
        **more,
      }
    case kind:
      raise ValueError(f"{file.name_of('rope.scaling.type')} is {kind!r}: not supported; supported: linear, yarn")


def _experts(file: Metadata) -> Config:
  """How many experts a layer has and a token runs."""
  experts = file.whole("expert_count", 0)
  if not experts:
    raise ValueError(
      f"{file.name_of('expert_count')} is 0: this is a model without experts, and there is no policy for it"
    )
  # What llama.cpp multiplies weights by; 0 stands for nothing.
  if file.architecture != "deepseek2":
    file.only("expert_weights_scale", (0.0, 1.0), 0.0)
  return {"num_experts": experts, "num_experts_per_tok": file.whole("expert_used_count")}


def _own_width(file: Metadata) -> int:
  """The width of one of many small experts; older files give that of all that a token runs."""
  if file.given("expert_feed_forward_length"):
    return file.whole("expert_feed_forward_length")
  return file.whole("feed_forward_length") // max(file.whole("expert_used_count"), 1)


def _has_bias(file: Metadata, name: str) -> bool:
  return f"blk.0.{name}.bias" in file.shapes


def _llama(file: Metadata) -> Config:
  file.only("attention.sliding_window", (0,), 0)
  return {
    "model_type": "mixtral",
    **_rms(file),
    **_experts(file),
    "intermediate_size": file.whole("feed_forward_length"),
    "sliding_window": None,
  }


def _qwen2moe(file: Metadata) -> Config:
  shared = file.whole("expert_shared_feed_forward_length", file.whole("feed_forward_length", 0))
  return {
    "model_type": "qwen2_moe",
    **_rms(file),
    **_experts(file),
    "moe_intermediate_size": _own_width(file),
    "shared_expert_intermediate_size": shared,
    "norm_topk_prob": False,
    "qkv_bias": _has_bias(file, "attn_q"),
  }


def _qwen3moe(file: Metadata) -> Config:
  return {
    "model_type": "qwen3_moe",
    **_rms(file),
    **_experts(file),
    "moe_intermediate_size": _own_width(file),
    "norm_topk_prob": True,
    "attention_bias": _has_bias(file, "attn_q"),
  }


def _olmoe(file: Metadata) -> Config:
  return {
    "model_type": "olmoe",
    **_rms(file),
    **_experts(file),
    "intermediate_size": file.whole("feed_forward_length"),
    "norm_topk_prob": False,
    "attention_bias": _has_bias(file, "attn_q"),
    "clip_qkv": file.number("attention.clamp_kqv") if file.given("attention.clamp_kqv") else None,
  }


def _gpt_oss(file: Metadata) -> Config:
  common = _rms(file)
  return {
    "model_type": "gpt_oss",
    **common,
    **_experts(file),
    "rope_parameters": {**common["rope_parameters"], "truncate": False},
    "intermediate_size": file.whole("expert_feed_forward_length"),
    "sliding_window": file.whole("attention.sliding_window"),
    "attention_bias": _has_bias(file, "attn_q"),
  }


def _granitemoe(file: Metadata) -> Config:
  file.only("expert_shared_feed_forward_length", (0,), 0)
  file.only("rope.scaling.finetuned", (True,), True)
  common = _rms(file)
  return {
    "model_type": "granitemoe",
    **common,
    **_experts(file),
    "intermediate_size": file.whole("feed_forward_length"),
    "attention_multiplier": file.number("attention.scale", 0.0) or common["head_dim"] ** -0.5,
    "embedding_multiplier": file.number("embedding_scale", 0.0) or 1.0,
    "residual_multiplier": file.number("residual_scale", 0.0) or 1.0,
    "logits_scaling": file.number("logit_scale"),
    "attention_bias": _has_bias(file, "attn_q"),
  }


def _dbrx(file: Metadata) -> Config:
  common = _common(file)
  file.only("attention.layer_norm_epsilon", (1e-5,), 1e-5)
  return {
    "model_type": "dbrx",
    "d_model": common["hidden_size"],
    "n_heads": common["num_attention_heads"],
    "n_layers": common["num_hidden_layers"],
    "max_seq_len": common["max_position_embeddings"],
    "vocab_size": common["vocab_size"],
    "eos_token_id": common["eos_token_id"],
    "tie_word_embeddings": common["tie_word_embeddings"],
    "attn_config": {
      "kv_n_heads": common["num_key_value_heads"],
      "clip_qkv": file.number("attention.clamp_kqv"),
      "rope_theta": file.number("rope.freq_base", 1e4),
    },
    "ffn_config": {
      "ffn_hidden_size": file.whole("feed_forward_length"),
      "moe_num_experts": file.whole("expert_count"),
      "moe_top_k": file.whole("expert_used_count"),
    },
  }


# Groups of experts of released models, by how many experts a layer has and how it scores them: their files were
# written before there was a key for it.
_GROUPS = MappingProxyType({(256, "sigmoid"): (8, 4), (160, "softmax"): (8, 3)})
_SCORING = MappingProxyType({0: "softmax", 1: "softmax", 2: "sigmoid"})


def _deepseek2(file: Metadata) -> Config:
  scores = file.whole("expert_gating_func", 0)
  require(scores in _SCORING, file.name_of("expert_gating_func"), scores, "1 (softmax) or 2 (sigmoid)")
  scoring, experts = _SCORING[scores], _experts(file)
  older = _GROUPS.get((experts["num_experts"], scoring), (1, 1))
  groups, kept = file.whole("expert_group_count", older[0]), file.whole("expert_group_used_count", older[1])
  # Newer files speak of the latent's one head, older ones of the heads that it is expanded to.
  suffix = "_mla" if file.given("attention.key_length_mla") else ""
  turned, rank = file.whole("rope.dimension_count"), file.whole("attention.kv_lora_rank")
  config = {
    **_common(file),
    "rms_norm_eps": file.number("attention.layer_norm_rms_epsilon"),
    "rope_parameters": _yarn_of_latents(file),
    "kv_lora_rank": rank,
    "q_lora_rank": file.whole("attention.q_lora_rank") if file.given("attention.q_lora_rank") else None,
    "qk_nope_head_dim": file.whole(f"attention.key_length{suffix}") - turned,
    "qk_rope_head_dim": turned,
    "v_head_dim": file.whole(f"attention.value_length{suffix}"),
    "n_routed_experts": experts["num_experts"],
    "num_experts_per_tok": experts["num_experts_per_tok"],
    "n_shared_experts": file.whole("expert_shared_count", 0),
    "moe_intermediate_size": file.whole("expert_feed_forward_length"),
    "intermediate_size": file.whole("feed_forward_length"),
    "first_k_dense_replace": file.whole("leading_dense_block_count", 0),
    "routed_scaling_factor": file.number("expert_weights_scale", 0.0) or 1.0,
    "norm_topk_prob": file.flag("expert_weights_norm"),
    "scoring_func": scoring,
  }
  del config["num_key_value_heads"]
  if scoring == "sigmoid":
    return {"model_type": "deepseek_v3", **config, "n_group": groups, "topk_group": kept}
  method = "group_limited_greedy" if groups > 1 else "greedy"
  return {"model_type": "deepseek_v2", **config, "topk_method": method, "n_group": groups, "topk_group": kept}


def _yarn_of_latents(file: Metadata) -> Config:
  """The rotary embedding; what multiplies the scores is kept as a tenth of `mscale_all_dim`, which `mscale` equals."""
  found = _rope(file)
  if found["rope_type"] == "yarn" and file.given("rope.scaling.yarn_log_multiplier"):
    scale = round(10 * file.number("rope.scaling.yarn_log_multiplier"), 6)
    return {**found, "mscale": scale, "mscale_all_dim": scale}
  return found


ARCHITECTURES: Mapping[str, Callable[[Metadata], Config]] = MappingProxyType(
  {
    "dbrx": _dbrx,
    "deepseek2": _deepseek2,
    "gpt-oss": _gpt_oss,
    "granitemoe": _granitemoe,
    "llama": _llama,
    "olmoe": _olmoe,
    "qwen2moe": _qwen2moe,
    "qwen3moe": _qwen3moe,
  }
)
"""What reads each architecture that is supported."""
