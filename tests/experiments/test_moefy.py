"""A llama cut into experts: with all of them on it is the dense model, and transformers says what that is."""

import json

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import lynx_jax
from experiments import moefy_smollm2
from experiments.moefy.cutting import cut_layers, ffn_inputs
from experiments.moefy.gguf_llama import read_llama
from experiments.moefy.judging import perplexities
from experiments.moefy.proof import all_on, difference, reference
from experiments.moefy.router import train_router
from experiments.moefy.slices import balanced_groups, cut
from experiments.moefy.texts import Split
from tests.small_models import random_prompts

WIDTH, FFN, HEADS, KV_HEADS, LAYERS = 32, 48, 4, 2, 2
SIZES = moefy_smollm2.Cut(shared=16, experts=8, top_k=3, calibration=4, judged=4, length=24)
BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]


@pytest.fixture(autouse=True)
def promotions():
  # The example is a program of its own, run with JAX's usual promotion.
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


def byte_tokens():
  """One token a byte, in the characters that byte-level BPE writes bytes as."""
  rest = [byte for byte in range(256) if byte not in BYTES]
  return [chr(byte) for byte in BYTES] + [chr(256 + index) for index in range(len(rest))]


def dense_weights():
  random = np.random.default_rng(0)
  tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_tokens(), "ab"]

  def weight(*shape):
    return random.normal(size=shape, scale=0.3).astype(np.float32)

  weights = {"model.embed_tokens.weight": weight(len(tokens), WIDTH), "model.norm.weight": 1 + weight(WIDTH)}
  kv = WIDTH // HEADS * KV_HEADS
  for index in range(LAYERS):
    layer = f"model.layers.{index}"
    weights |= {f"{layer}.{name}.weight": 1 + weight(WIDTH) for name in ("input_layernorm", "post_attention_layernorm")}
    for name, size in (("q", WIDTH), ("k", kv), ("v", kv), ("o", WIDTH)):
      weights[f"{layer}.self_attn.{name}_proj.weight"] = weight(size, WIDTH)
    for name in ("gate", "up"):
      weights[f"{layer}.mlp.{name}_proj.weight"] = weight(FFN, WIDTH)
    weights[f"{layer}.mlp.down_proj.weight"] = weight(WIDTH, FFN)
  return tokens, weights


def write_gguf(path, tokens, weights):
  """As llama.cpp's converter does: rows of q and k reordered, so that rotary pairs lie side by side."""
  names = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
  }  # fmt: skip
  writer = gguf.GGUFWriter(path, "llama")
  writer.add_name("Tiny")
  writer.add_context_length(64)
  writer.add_embedding_length(WIDTH)
  writer.add_block_count(LAYERS)
  writer.add_feed_forward_length(FFN)
  writer.add_head_count(HEADS)
  writer.add_head_count_kv(KV_HEADS)
  writer.add_rope_dimension_count(WIDTH // HEADS)
  writer.add_rope_freq_base(10_000.0)
  writer.add_layer_norm_rms_eps(1e-5)
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre("smollm")
  writer.add_token_list(tokens)
  writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
  writer.add_token_merges(["a b"])
  writer.add_eos_token_id(2)
  writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
  writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
  for index in range(LAYERS):
    for theirs, name in names.items():
      array = weights[f"model.layers.{index}.{theirs}.weight"]
      if name in ("attn_q", "attn_k"):
        heads = HEADS if name == "attn_q" else KV_HEADS
        array = array.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(array.shape)
      writer.add_tensor(f"blk.{index}.{name}.weight", np.ascontiguousarray(array))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp("moefy")
  tokens, weights = dense_weights()
  write_gguf(folder / "tiny.gguf", tokens, weights)
  llama = read_llama(folder / "tiny.gguf")
  random = np.random.default_rng(1)
  documents = {"noise": ["".join(chr(97 + c) for c in random.integers(26, size=200)) for _ in range(6)]}
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    layers, report = moefy_smollm2.moefy(llama, Split(calibration=documents, judged=documents, dropped=0), SIZES)
    moefy_smollm2.write(llama, layers, report, SIZES, folder / "tiny_moe")
  return folder, llama, weights, report


def test_the_dense_model_is_what_transformers_computes(made):
  _, llama, weights, _ = made
  config = transformers.LlamaConfig(
    vocab_size=len(weights["model.embed_tokens.weight"]), hidden_size=WIDTH, intermediate_size=FFN,
    num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, tie_word_embeddings=True,
  )  # fmt: skip
  theirs = transformers.LlamaForCausalLM(config).eval()
  loaded = theirs.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
  assert loaded.missing_keys == ["lm_head.weight"]
  assert not loaded.unexpected_keys
  ids = np.array(random_prompts([12, 12]), np.int32)
  with torch.no_grad():
    expected = theirs(torch.from_numpy(ids).long()).logits.numpy()
  ours = np.asarray(lynx_jax.forward(lynx_jax.Params(llama.decoder), ids))
  assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()


def test_all_experts_on_are_the_dense_model_and_fewer_are_not(made):
  folder, llama, _, report = made
  ids = np.array(random_prompts([12, 12]), np.int32)
  few, theirs = lynx_jax.load(folder / "tiny_moe", dtype="float32").decoder, reference(llama.decoder)
  largest, scale = difference(all_on(few), theirs, ids)
  assert largest < 1e-4 * scale
  largest, scale = difference(few, theirs, ids)
  assert largest > 1e-2 * scale
  kept = report["perplexity"][0]
  assert (kept["experts"], kept["choice"]) == (8, "router")


def test_the_directory_generates_text_and_tells_what_it_is(made):
  folder, *_ = made
  params = lynx_jax.load(folder / "tiny_moe")
  done = lynx_jax.generate(params, ["ab", "c"], max_new_tokens=4, policy=lynx_jax.Auto(), stats=True)
  assert len(done[0].token_ids) == 4
  stats = done[0].stats
  assert stats is not None
  assert stats.active_experts[0] <= stats.own_experts[0]
  card = (folder / "tiny_moe" / "README.md").read_text()
  assert "| 8 | all |" in card
  assert "| 4 | oracle |" in card
  assert json.loads((folder / "tiny_moe" / "config.json").read_text())["num_experts_per_tok"] == 3


def test_fewer_experts_are_worse_and_the_oracle_beats_chance(made):
  _, llama, _, _ = made
  forward = jax.jit(lynx_jax.forward)
  tokens = np.array(random_prompts([16] * 8, vocab=llama.decoder.spec.vocab), np.int32)
  # Texts that the dense model itself writes, so that what is left of it can be told from noise.
  for at in range(2, 15):
    tokens[:, at + 1] = np.asarray(forward(lynx_jax.Params(llama.decoder), tokens))[:, at].argmax(-1)
  layers = list(cut_layers(llama.decoder, ffn_inputs(llama.decoder, tokens), shared=16, experts=8))
  kept = {(one.choice, one.experts): one for one in perplexities(llama.decoder, layers, tokens, [8, 4])}
  assert set(kept) == {("router", 8), ("router", 4), ("oracle", 4), ("random", 4)}
  assert kept["router", 8].times.value == 1
  assert 1 < kept["oracle", 4].times.value < kept["random", 4].times.value
  assert all(layer.last_loss < layer.first_loss for layer in layers)


@given(groups=st.integers(1, 5), size=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_groups_are_a_partition(groups, size, seed):
  points = np.random.default_rng(seed).normal(size=(groups * size, 3)).astype(np.float32)
  found = balanced_groups(points, groups, seed=seed)
  assert found.shape == (groups, size)
  assert sorted(found.ravel().tolist()) == list(range(groups * size))


def test_neurons_that_are_busy_together_share_an_expert():
  random = np.random.default_rng(0)
  owner = random.permutation(np.repeat(np.arange(3), 8))
  on = random.random((500, 3)) < 0.3
  busy = (on[:, owner] * random.uniform(0.5, 1.5, size=(500, 24))).astype(np.float32)
  always = random.uniform(3, 4, size=(500, 6)).astype(np.float32)
  found = cut(np.concatenate([busy, always], axis=1), shared=6, experts=3)
  assert found.shared.tolist() == list(range(24, 30))
  assert {frozenset(owner[neurons]) for neurons in found.experts} == {frozenset({0}), frozenset({1}), frozenset({2})}
  with pytest.raises(ValueError, match="24 neurons do not divide into 5 experts"):
    cut(np.concatenate([busy, always], axis=1), shared=6, experts=5)


def test_a_router_learns_which_experts_add_most():
  random = np.random.default_rng(0)
  x, truth = (random.normal(size=shape).astype(np.float32) for shape in ((512, 16), (6, 16)))
  wanted = jax.nn.softmax(jnp.asarray(x @ truth.T))
  router, losses = train_router(jnp.asarray(x), wanted, jax.random.key(0), steps=400, rows=128)
  assert float(losses[-20:].mean()) < 0.8 * float(losses[0])
  agree = (np.argmax(x @ np.asarray(router).T, axis=1) == np.argmax(x @ truth.T, axis=1)).mean()
  assert agree > 0.8
