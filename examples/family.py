"""What the examples of the model families share: load a model, say what is particular to it, compare two routings."""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import jax

import lynx_jax
from lynx_jax.testing.random_checkpoint import random_checkpoint
from lynx_jax.testing.tiny_configs import TINY

PROMPTS = (
  "The capital of France is",
  "Water boils at a temperature of",
  "def fibonacci(n):",
  "The three primary colours are",
  "2 + 3 * 4 =",
  "A mixture of experts is a network that",
  "In the year 1969,",
  "The opposite of hot is",
)


def compare(family: str, *, policy: str, particular: Callable[[lynx_jax.Params], Iterable[str]]) -> None:
  """Runs the example of `family` from its command line.

  Args:
    family: the `model_type`.
    policy: the default of `--policy`; the knobs that the Lynx paper gives for the family, where it has any.
    particular: lines that say what is particular to the loaded model.
  """
  parser = argparse.ArgumentParser()
  parser.add_argument("model", nargs="?", help="directory of a downloaded model")
  parser.add_argument("--tiny", action="store_true", help="random weights of a tiny model of the family instead")
  parser.add_argument("--policy", default=policy, help="beside the model's own routing (default: %(default)s)")
  parser.add_argument("--max-new-tokens", type=int, default=32)
  args = parser.parse_args()
  if args.tiny == (args.model is not None):
    parser.error("give the directory of a model, or --tiny")
  params = _tiny(family) if args.tiny else lynx_jax.load(args.model)

  spec, moe = params.spec, params.spec.moe_specs[0]
  print(
    f"{family}: {len(spec.layers)} layers of width {spec.width}, {len(spec.moe_layers)} with "
    f"{moe.experts} experts, of which a token runs {moe.top_k}"
  )
  for line in particular(params):
    print(f"- {line}")
  _print_routings(params, args.policy, args.max_new_tokens)


def token_weights(params: lynx_jax.Params, seed: int = 0) -> list[float]:
  """The weights that the model's own router gives the experts of one token with random router logits."""
  moe = params.spec.moe_specs[0]
  bias = jax.numpy.zeros(moe.experts) if moe.selection_bias else None
  logits = 2.0 * jax.random.normal(jax.random.key(seed), (1, moe.experts))
  return lynx_jax.lynx_route(logits, moe.top_k, router=moe.router, selection_bias=bias).weights[0].tolist()


def attention_spec(params: lynx_jax.Params, layer: int = 0) -> lynx_jax.AttentionSpec:
  """What a layer's grouped-query attention is like."""
  spec = params.spec.layers[layer].attention
  assert isinstance(spec, lynx_jax.AttentionSpec)
  return spec


def router_line(params: lynx_jax.Params) -> str:
  """The model's own rule, and what it gives one token."""
  router = params.spec.moe_specs[0].router
  divided = "divided by their sum" if router.renormalize else "as they are"
  return f"a {router.scoring} router, weights {divided}; one token's: {weights_line(params)}"


def weights_line(params: lynx_jax.Params) -> str:
  """One token's weights and their sum, as text."""
  weights = token_weights(params)
  return f"{' + '.join(f'{weight:.2f}' for weight in weights)} = {sum(weights):.2f}"


def _tiny(family: str) -> lynx_jax.Params:
  with tempfile.TemporaryDirectory() as folder:
    random_checkpoint(Path(folder) / family, TINY[family], dtype="float32")
    return lynx_jax.load(Path(folder) / family)


def _same_tokens(done: list[lynx_jax.Completion], own: list[lynx_jax.Completion]) -> float:
  """Share of tokens that are those of the model's own routing, place by place."""
  pairs = [
    pair
    for row, its in zip(done, own, strict=True)
    for pair in zip(row.token_ids, its.token_ids, strict=False)  # rows may end early
  ]
  return sum(one == other for one, other in pairs) / max(1, len(pairs))


def _print_routings(params: lynx_jax.Params, policy: str, max_new_tokens: int) -> None:
  """Decodes eight prompts as one batch by the model's own routing and under `policy`, and prints a table."""
  prompts = list(PROMPTS) if params.tokenizer else [[7 + row, 11, 3 + 5 * row] for row in range(len(PROMPTS))]
  by_policy = {
    text: lynx_jax.generate(
      params, prompts, max_new_tokens=max_new_tokens, policy=lynx_jax.parse_policy(text), stats=True
    )
    for text in ("topk", policy)
  }
  own = by_policy["topk"]
  print(f"\n{len(prompts)} prompts, {max_new_tokens} new tokens at most:")
  print(f"  {'policy':24}{'experts a layer':>16}{'expert weights a step':>24}{'tokens as topk':>16}{'mass kept':>11}")
  for text, done in by_policy.items():
    stats = done[0].stats
    if stats is None:
      continue
    experts = sum(stats.active_experts) / len(stats.active_experts)
    kept = sum(stats.retained_mass) / len(stats.retained_mass)
    same = _same_tokens(done, own)
    print(f"  {text:24}{experts:16.1f}{stats.expert_bytes / 1e6:21.2f} MB{same:16.0%}{kept:11.0%}")
  if params.tokenizer:
    print(f"\n{PROMPTS[0]}")
    for text, done in by_policy.items():
      print(f"  {text}: {done[0].text!r}")
