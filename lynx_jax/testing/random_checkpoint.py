"""Writes a checkpoint of random weights, for measurements that depend on sizes only.

    python -m lynx_jax.testing.random_checkpoint OUT [--family olmoe --width 1024 --layers 8 --experts 32 ...]
    python -m lynx_jax.testing.random_checkpoint OUT --tiny gpt_oss

`--tiny` takes any family, the other flags those that they can describe. The defaults are an OLMoE-like model of 905M
parameters: 1.8 GB in bfloat16, 1.6 GB of them experts.
"""

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from checkpoints_convert.companions import write_config
from checkpoints_convert.dtypes import as_dtype
from checkpoints_convert.parameters import in_memory
from checkpoints_convert.safetensors_writing import SHARD_BYTES, write_safetensors
from checkpoints_convert.staging import staged
from lynx_jax.models.families import spec_from_config, tensor_rules
from lynx_jax.models.parameters import declarations
from lynx_jax.placement import Declared, Role
from lynx_jax.testing.tiny_configs import TINY

_EXPERT_WIDTH = MappingProxyType(
  {"olmoe": "intermediate_size", "mixtral": "intermediate_size", "qwen3_moe": "moe_intermediate_size"}
)
_EXPERTS = MappingProxyType({"olmoe": "num_experts", "mixtral": "num_local_experts", "qwen3_moe": "num_experts"})


def random_checkpoint(
  out: Path, config: Mapping[str, Any], *, dtype: Any = "bfloat16", seed: int = 0, shard_bytes: int = SHARD_BYTES
) -> None:
  """Writes the Hugging Face directory `out` for `config`: normal weights of deviation 0.02, scales of one.

  Files hold `shard_bytes` at most, or one parameter of the decoder.

  Raises:
    ValueError: `config` is not one of a supported family, or `out` exists.
  """
  spec, kind = spec_from_config(config), as_dtype(dtype)
  random = np.random.default_rng(seed)
  arrays = {path: _weight(declared, kind, random) for path, declared in declarations(spec).items()}
  with staged(out, force=False) as directory:
    write_safetensors(directory, tensor_rules(spec), in_memory(arrays), shard_bytes)
    write_config(directory, config, kind, settings={})


def _weight(declared: Declared, dtype: np.dtype, random: np.random.Generator) -> np.ndarray:
  shape = declared.shape
  if declared.role is Role.NORM:
    return np.ones(shape, dtype)
  # One slice at a time: the float32 draw of a whole stack would be twice its size.
  weight = np.empty(shape, dtype)
  for part in weight.reshape(-1, *shape[-2:]):
    part[...] = 0.02 * random.standard_normal(shape[-2:], np.float32)
  return weight


def config_of(args: argparse.Namespace) -> dict[str, Any]:
  """The config.json that the flags describe."""
  return {
    "model_type": args.family,
    "vocab_size": args.vocab,
    "hidden_size": args.width,
    "num_hidden_layers": args.layers,
    "num_attention_heads": args.heads,
    "num_key_value_heads": args.kv_heads,
    "head_dim": args.width // args.heads,
    _EXPERTS[args.family]: args.experts,
    "num_experts_per_tok": args.top_k,
    _EXPERT_WIDTH[args.family]: args.expert_width,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("out", type=Path)
  parser.add_argument("--tiny", choices=sorted(TINY), help="a model of that family with a few thousand parameters")
  parser.add_argument("--family", choices=sorted(_EXPERTS), default="olmoe")
  whole = functools.partial(parser.add_argument, type=int)
  for flag, default in (
    ("--width", 1024), ("--layers", 8), ("--heads", 16), ("--kv-heads", 16), ("--experts", 32), ("--top-k", 4),
    ("--expert-width", 1024), ("--vocab", 32000), ("--seed", 0),
  ):  # fmt: skip
    whole(flag, default=default)
  parser.add_argument("--dtype", default="bfloat16")
  whole("--shard-mb", default=SHARD_BYTES // 10**6, help="MB a file, about (default: %(default)s)")
  args = parser.parse_args(argv)
  try:
    config = TINY[args.tiny] if args.tiny else config_of(args)
    shard_bytes = args.shard_mb * 10**6
    random_checkpoint(args.out, config, dtype=args.dtype, seed=args.seed, shard_bytes=shard_bytes)
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  print(f"wrote {args.out}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
