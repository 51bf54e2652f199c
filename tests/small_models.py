"""Small random models for tests: wide enough apart in their choices that float noise never decides a token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lynx_jax.engine.steps import forward
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.decoder import Decoder
from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.params import Params
from lynx_jax.models.rope import RopeSpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router

VOCAB = 97


def small_spec(**changes) -> DecoderSpec:
  """A dense layer and one of experts; `changes` replace fields of the spec."""
  attention = AttentionSpec(heads=4, kv_heads=2, head_dim=8, rope=RopeSpec(theta=1e4), qk_norm="head")
  experts = MoESpec(experts=8, top_k=2, expert_width=24, router=Router(renormalize=True))
  layer = LayerSpec(attention=attention, ffn=experts)
  dense = LayerSpec(attention=attention, ffn=DenseSpec(width=40))
  fields = {
    "family": "qwen3_moe", "vocab": VOCAB, "width": 32, "layers": (dense, layer), "norm_eps": 1e-6,
    "tied": False, "context": 128,
  }  # fmt: skip
  return DecoderSpec(**(fields | changes))


@functools.cache
def small_params(spec: DecoderSpec | None = None, dtype=jnp.float32, seed: int = 0) -> Params:
  """Random weights for `spec`, without a tokenizer."""
  decoder = Decoder(spec or small_spec(), rngs=nnx.Rngs(seed))
  return Params(jax.tree.map(lambda leaf: (leaf * (10 if leaf.ndim > 1 else 1)).astype(dtype), decoder))


def random_prompts(lengths, seed: int = 0, vocab: int = VOCAB) -> list[list[int]]:
  """Prompts of random token ids, one of each length."""
  random = np.random.default_rng(seed)
  return [random.integers(vocab, size=length).tolist() for length in lengths]


@functools.cache
def greedy_alone(prompt: tuple[int, ...], new: int = 10, seed: int = 0) -> list[int]:
  """The most likely continuation by `small_params`, by whole forward passes of at most 96 positions."""
  tokens = list(prompt)
  for _ in range(new):
    padded = np.zeros((1, 96), np.int32)
    padded[0, : len(tokens)] = tokens
    logits = _forward(small_params(seed=seed), padded)[0, len(tokens) - 1]
    tokens.append(int(np.argmax(logits)))
  return tokens[len(prompt) :]


_forward = jax.jit(forward)
