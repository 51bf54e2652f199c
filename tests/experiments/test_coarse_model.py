"""The coarse model that lies beside the experiments, against transformers on the same directory."""

from pathlib import Path

import jax
import numpy as np
import torch
import transformers

import experiments
import lynx_jax
from lynx_jax.models.moe import MoESpec
from lynx_jax.routing import Auto

DIRECTORY = Path(next(iter(experiments.__path__))) / "coarse_model"
TEXT = "The man is standing in front of a camera and talking to the people. He is holding a ball in his hand."


def test_transformers_loads_the_same_directory_with_the_same_logits():
  theirs = transformers.AutoModelForCausalLM.from_pretrained(DIRECTORY, dtype=torch.float32).eval()
  params = lynx_jax.load(DIRECTORY, dtype="float32")
  moe = params.spec.layers[0].ffn
  assert isinstance(moe, MoESpec)
  assert params.tokenizer is not None
  assert (params.spec.family, moe.experts, moe.top_k) == ("mixtral", 8, 2)
  ids = params.tokenizer.encode(TEXT)
  with torch.no_grad():
    expected = theirs(torch.tensor([ids])).logits.numpy()
  ours = np.asarray(jax.jit(lynx_jax.forward)(params, np.array([ids], np.int32)))
  assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()
  log = ours[0, :-1] - np.log(np.exp(ours[0, :-1]).sum(axis=-1, keepdims=True))
  # A uniform guess over 4,096 tokens costs 8.3 nats; the corpus' own token frequencies about 6.5.
  assert -log[np.arange(len(ids) - 1), ids[1:]].mean() < 5.0


def test_a_batch_of_it_reads_fewer_experts_under_auto():
  params = lynx_jax.load(DIRECTORY)
  prompts = ["The man is", "Question: What", "A dog runs", "She puts the"]
  stats = lynx_jax.generate(params, prompts, max_new_tokens=12, policy=Auto(), stats=True)[0].stats
  assert stats is not None
  assert np.mean(stats.active_experts) < np.mean(stats.own_experts)
