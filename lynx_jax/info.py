"""What a checkpoint holds, from its configuration: sizes and the bytes that decoding moves."""

import dataclasses
from pathlib import Path

from checkpoints_convert.sources import open_source
from lynx_jax.loading import checkpoint_directory
from lynx_jax.models.counts import counts
from lynx_jax.models.spec import DecoderSpec, MoESpec


def describe(path: str | Path | None) -> list[tuple[str, str]]:
  """Names and values to print, of the embedded model where `path` is None; no weight is read."""
  with open_source(checkpoint_directory(path)) as source:
    spec, dtype = source.spec, source.dtype
  size = counts(spec)
  lines = [
    ("family", spec.family),
    ("dtype", str(dtype)),
    ("layers", f"{len(spec.layers)}, {len(spec.moe_layers)} with experts"),
    ("width", f"{spec.width}, vocabulary {spec.vocab}, context {spec.context} tokens, {_tied(spec)}"),
    ("attention", _attention(spec)),
  ]
  moe = [spec.layers[index].ffn for index in spec.moe_layers]
  if moe and isinstance(moe[0], MoESpec):
    first = moe[0]
    rule = "renormalised" if first.router.renormalize else "not renormalised"
    one = 3 * spec.width * first.expert_width * dtype.itemsize
    lines += [
      ("experts", f"{first.experts} per layer of width {first.expert_width}, {first.top_k} per token"),
      ("router", f"{first.router.scoring}, top {first.top_k}, {rule}"),
      ("one expert", f"{one / 1e6:.2f} MB"),
    ]
  lines += [
    ("parameters", f"{size.total / 1e6:.1f}M, of which a token uses {size.active / 1e6:.1f}M"),
    (
      "weights",
      f"{size.total * dtype.itemsize / 1e6:.1f} MB, of which experts {size.experts * dtype.itemsize / 1e6:.1f} MB",
    ),
    ("read per token alone", f"{(size.active - size.embedding) * dtype.itemsize / 1e6:.1f} MB"),
    ("read per step, all experts", f"{(size.total - size.embedding) * dtype.itemsize / 1e6:.1f} MB"),
    ("KV cache per token", f"{size.kv_per_token * dtype.itemsize} bytes"),
  ]
  return lines


def _tied(spec: DecoderSpec) -> str:
  return "head tied to the embedding" if spec.tied else "separate head"


def _attention(spec: DecoderSpec) -> str:
  attention = spec.layers[0].attention
  parts = [f"{attention.heads} heads of {attention.head_dim} over {attention.kv_heads} key/value heads"]
  extras = dataclasses.asdict(attention)
  if extras["qk_norm"] != "none":
    parts.append(f"query/key norm per {extras['qk_norm']}")
  if extras["window"] is not None:
    parts.append(f"window {extras['window']}")
  return ", ".join(parts)
