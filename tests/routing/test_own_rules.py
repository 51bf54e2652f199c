"""The model's own routing against the routers of transformers, given the logits by an identity for a weight."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.dbrx.modeling_dbrx import DbrxFFN
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.granitemoe.modeling_granitemoe import GraniteMoeTopKRouter
from transformers.models.llama4.modeling_llama4 import Llama4Router
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.phimoe.modeling_phimoe import PhimoeTopKRouter
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter

from lynx_jax.routing import Router, lynx_route
from tests.routing.routing_cases import normal_logits

EXPERTS = 16
own_routing = jax.jit(lynx_route, static_argnames=("top_k", "router", "implementation"))


def theirs(module, top_k, **fields):
  """A router of transformers whose logits are its input: ids and weights of each row as dense weights [T, E]."""
  shared = dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "hidden_size"), EXPERTS)
  router = module(types.SimpleNamespace(num_experts_per_tok=top_k, **shared, **fields)).eval()
  with torch.no_grad():
    router.weight.copy_(torch.eye(EXPERTS))
  return router


def dense(ids, weights):
  out = np.zeros((len(ids), EXPERTS), np.float32)
  np.put_along_axis(out, np.asarray(ids, np.int64), np.asarray(weights, np.float32), axis=1)
  return out


def assert_same(logits, top_k, router, ids, weights, bias=None):
  for name in (None, "reference"):
    ours = own_routing(jnp.asarray(logits), top_k=top_k, router=router, selection_bias=bias, implementation=name)
    np.testing.assert_array_equal(np.sort(ours.ids, axis=1), np.sort(ids, axis=1))
    np.testing.assert_allclose(dense(ours.ids, ours.weights), dense(ids, weights), rtol=1e-6, atol=1e-8)


def batches():
  for scale in (0.3, 1.5, 6.0):
    yield normal_logits(int(10 * scale), 64, EXPERTS, scale=scale)


@pytest.mark.parametrize(
  ("module", "top_k", "fields", "router"),
  [
    (MixtralTopKRouter, 2, {}, Router()),
    (Qwen2MoeTopKRouter, 4, {"norm_topk_prob": False}, Router(renormalize=False)),
    (Qwen2MoeTopKRouter, 4, {"norm_topk_prob": True}, Router()),
    (GraniteMoeTopKRouter, 8, {}, Router()),
    (GptOssTopKRouter, 4, {}, Router()),
    (
      DeepseekV2TopkRouter,
      6,
      {"routed_scaling_factor": 1.0, "topk_method": "greedy", "n_group": 1, "topk_group": 1},
      Router(renormalize=False),
    ),
    (
      DeepseekV2TopkRouter,
      3,
      {"routed_scaling_factor": 16.0, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
      Router(renormalize=False, scale=16.0, groups=4, groups_kept=2, group_score="max"),
    ),
    (PhimoeTopKRouter, 2, {"router_jitter_noise": 0.01, "input_jitter_noise": 0.0},
     Router(scoring="sparsemixer", renormalize=False)),
  ],
)  # fmt: skip
def test_token_choices(module, top_k, fields, router):
  model = theirs(module, top_k, **fields)
  for logits in batches():
    if router.scoring == "sparsemixer":
      # Many experts within 2 % of each other, and rows below zero.
      logits = np.concatenate([logits, 4 + 0.05 * logits, -4 + 0.05 * logits])
    with torch.no_grad():
      _, weights, ids = model(torch.from_numpy(logits))
    assert_same(logits, top_k, router, ids.numpy(), weights.numpy())


@pytest.mark.parametrize("spread", [0.0, 0.2, 20.0])
@pytest.mark.parametrize("normalized", [True, False])
def test_deepseek_v3(normalized, spread):
  fields = {"routed_scaling_factor": 2.5, "n_group": 4, "topk_group": 2, "norm_topk_prob": normalized}
  model = theirs(DeepseekV3TopkRouter, 5, **fields)
  bias = np.random.default_rng(0).normal(0, spread, EXPERTS).astype(np.float32)
  model.e_score_correction_bias.copy_(torch.from_numpy(bias))
  router = Router(scoring="sigmoid", renormalize=normalized, scale=2.5, groups=4, groups_kept=2, group_score="top2_sum")
  for logits in batches():
    with torch.no_grad():
      _, weights, ids = model(torch.from_numpy(logits))
    assert_same(logits, 5, router, ids.numpy(), weights.numpy(), jnp.asarray(bias))


def test_llama4():
  model = theirs(Llama4Router, 1)
  for logits in batches():
    with torch.no_grad():
      scores, _ = model(torch.from_numpy(logits))
    ids = scores.argmax(dim=1, keepdim=True)
    weights = scores.gather(1, ids).numpy()
    assert_same(logits, 1, Router(scoring="sigmoid", renormalize=False), ids.numpy(), weights)


def test_dbrx():
  rule: Any = types.SimpleNamespace(moe_normalize_expert_weights=1, top_k=4)
  for logits in batches():
    weights, ids = DbrxFFN.route_tokens_to_experts(rule, torch.from_numpy(logits))
    assert_same(logits, 4, Router(), ids.numpy(), weights.numpy())
