"""The training script: resumes to the bit, refuses to mix runs, and exports what transformers reads alike."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer

import lynx_jax
from experiments import train_plot, train_tiny
from experiments.tiny_corpus import tokenizer
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.moe import MoESpec

TINY = ["--batch", "1", "--length", "24", "--save-every", "2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpus")
  learnt: Tokenizer = tokenizer.train_tokenizer(["a man is in the house", "two dogs run"], tokenizer.SMALLEST_VOCAB + 8)
  tokenizer.save_tokenizer(learnt, folder)
  random = np.random.default_rng(0)
  for split, size in (("train", 4000), ("valid", 400)):
    np.save(folder / f"tokens_{split}.npy", random.integers(learnt.get_vocab_size(), size=size).astype(np.uint16))
  described = {
    "vocab": learnt.get_vocab_size(),
    "special": {text: at for at, text in enumerate(tokenizer.SPECIAL)},
    "tokens": {"train": {"tokens": 4000, "sources": {"task add": {"tokens": 9}}}},
  }
  (folder / "corpus.json").write_text(json.dumps(described))
  return folder


def train(corpus, run, steps, *more):
  train_tiny.main(["--corpus", str(corpus), "--run", str(run), "--steps", str(steps), *TINY, *more])


@pytest.fixture(autouse=True)
def promotions():
  """optax relies on the promotions that our own code does without."""
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


@pytest.fixture
def one_layer(monkeypatch):
  """Models of one layer in place of six: what is judged does not depend on their number, and they compile sooner."""
  whole = train_tiny.tiny_spec

  def short(*args):
    spec = whole(*args)
    return dataclasses.replace(spec, layers=spec.layers[:1])

  monkeypatch.setattr(train_tiny, "tiny_spec", short)


@pytest.mark.slow
@pytest.mark.usefixtures("one_layer")
def test_a_stopped_run_and_a_longer_one_continue_to_the_bit(corpus, tmp_path):
  train(corpus, tmp_path / "whole", 7, "--export", str(tmp_path / "whole_hf"))

  def saved():
    return {int(path.name) for path in (tmp_path / "parts" / "checkpoints").iterdir()}

  train(corpus, tmp_path / "parts", 5, "--minutes", "0")
  assert saved() == {1}
  train(corpus, tmp_path / "parts", 5)
  assert saved() == {4, 5}
  # The rate fell after step 4; in a run of seven it does not.
  train(corpus, tmp_path / "parts", 7, "--export", str(tmp_path / "parts_hf"))
  whole, parts = ((tmp_path / f"{name}_hf" / "model.safetensors").read_bytes() for name in ("whole", "parts"))
  assert whole == parts
  with pytest.raises(ValueError, match=r"was started with .*batch=1.*, not .*batch=2.*choose another --run"):
    train(corpus, tmp_path / "parts", 7, "--batch", "2")


@pytest.mark.slow
@pytest.mark.usefixtures("one_layer")
def test_the_coarse_form_is_mixtrals_and_transformers_agrees(corpus, tmp_path):
  torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
  train(corpus, tmp_path / "run", 2, "--form", "coarse", "--export", str(tmp_path / "hf"))
  params = lynx_jax.load(tmp_path / "hf", dtype="float32")
  moe = params.spec.layers[0].ffn
  assert isinstance(moe, MoESpec)
  assert (params.spec.family, moe.experts, moe.top_k) == ("mixtral", 8, 2)
  ids = np.random.default_rng(1).integers(params.spec.vocab, size=(2, 20))
  judge = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
  with torch.no_grad():
    expected = judge(torch.tensor(ids)).logits.numpy()
  np.testing.assert_allclose(lynx_jax.forward(params, ids), expected, atol=2e-4 * np.abs(expected).max())
  assert "Its form is Mixtral's" in (tmp_path / "hf" / "README.md").read_text()


@pytest.mark.parametrize(("form", "millions"), [("fine", 21.1), ("coarse", 11.7)])
def test_forms_run_the_same_weights_for_a_token_out_of_more_or_fewer(form, millions):
  from lynx_jax.models.sizes import counts

  spec = train_tiny.tiny_spec(4096, (0,), 512, form)
  assert spec_from_config(train_tiny.CONFIGS[spec.family](spec)) == spec
  assert counts(spec).total == pytest.approx(millions * 1e6, rel=0.01)
  moe = spec.layers[0].ffn
  assert isinstance(moe, MoESpec)
  assert moe.top_k * moe.expert_width == 512
  assert counts(spec).active == pytest.approx(4.6e6, rel=0.01)


def test_an_unknown_form():
  with pytest.raises(ValueError, match="form is 'dense': choose from fine, coarse"):
    train_tiny.Training(form="dense")


def test_the_log_is_drawn(tmp_path):
  pytest.importorskip("matplotlib")
  load = np.random.default_rng(0).dirichlet(np.ones(8), size=6)
  lines = [{"step": 20 * at, "cross_entropy": 8 - at / 10, "load": load.tolist()} for at in range(1, 30)]
  lines.insert(10, {"step": 200, "validation_loss": 6.5})
  (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  train_plot.main(["--run", str(tmp_path), "--out", str(tmp_path / "run.png")])
  assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
  (tmp_path / "log.jsonl").write_text("")
  with pytest.raises(ValueError, match="holds no step"):
    train_plot.draw(tmp_path, tmp_path / "none.png")
