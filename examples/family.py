"""What the examples of the model families share: decode a batch with and without a policy, print what it saved."""

import argparse
import tempfile
from pathlib import Path

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


def compare(family: str, *, policy: str) -> None:
  """Runs the example of `family` from its command line."""
  parser = argparse.ArgumentParser()
  parser.add_argument("model", nargs="?", help="directory of a downloaded model")
  parser.add_argument("--tiny", action="store_true", help="random weights of a tiny model of the family instead")
  parser.add_argument("--policy", default=policy)
  parser.add_argument("--max-new-tokens", type=int, default=32)
  args = parser.parse_args()
  if args.tiny == (args.model is not None):
    parser.error("give the directory of a model, or --tiny")
  with tempfile.TemporaryDirectory() as folder:
    if args.tiny:
      args.model = Path(folder) / family
      random_checkpoint(args.model, TINY[family], dtype="float32")
    params = lynx_jax.load(args.model)
  chosen = lynx_jax.parse_policy(args.policy)
  ids = [[7 + row, 11, 3 + 5 * row] for row in range(len(PROMPTS))]
  prompts = list(PROMPTS) if params.tokenizer else ids
  own = lynx_jax.generate(params, prompts, max_new_tokens=args.max_new_tokens)
  done = lynx_jax.generate(params, prompts, max_new_tokens=args.max_new_tokens, policy=chosen, stats=True)
  for prompt, before, after in zip(prompts, own, done, strict=True):
    same = "same text" if before.token_ids == after.token_ids else "other text"
    print(f"{prompt} -> {after.text or list(after.token_ids)}  [{same} as without {args.policy}]")
  print(f"{args.policy}: {done[0].stats}")
