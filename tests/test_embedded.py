"""The model that comes with the package, against transformers on the same directory."""

from importlib import resources

import jax
import numpy as np
import torch
import transformers

import lynx_jax

DIRECTORY = str(resources.files("lynx_jax") / "embedded")


def test_transformers_loads_the_same_directory_with_the_same_logits():
  theirs = transformers.AutoModelForCausalLM.from_pretrained(DIRECTORY, dtype=torch.float32).eval()
  params = lynx_jax.load(dtype="float32")
  tokenizer = transformers.AutoTokenizer.from_pretrained(DIRECTORY)
  assert params.tokenizer is not None
  text = "Question: What do plants need to grow?\nAnswer: water"
  ids = params.tokenizer.encode(text)
  assert ids == tokenizer.encode(text, add_special_tokens=False)
  with torch.no_grad():
    expected = theirs(torch.tensor([ids])).logits.numpy()
  ours = np.asarray(jax.jit(lynx_jax.forward)(params, np.array([ids], np.int32)))
  assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()


def test_it_has_learnt_english_words_better_than_chance():
  params = lynx_jax.load()
  text = "The man is standing in front of a camera and talking to the people. He is holding a ball in his hand."
  assert params.tokenizer is not None
  ids = np.array([params.tokenizer.encode(text)], np.int32)
  logits = np.asarray(jax.jit(lynx_jax.forward)(params, ids))[0, :-1]
  logits = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  loss = -logits[np.arange(ids.shape[1] - 1), ids[0, 1:]].mean()
  # A uniform guess over 4,096 tokens costs 8.3 nats; the corpus' own token frequencies about 6.5.
  assert loss < 4.5


def test_its_chat_template_marks_turns():
  params = lynx_jax.load()
  assert params.tokenizer is not None
  text = params.tokenizer.apply_chat([{"role": "user", "content": "Hello"}])
  assert text == "<|user|>Hello<|end|><|assistant|>"
  assert set(params.spec.stop_ids) == {0, 3}
