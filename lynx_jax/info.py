"""What a model is, from its configuration: sizes, the bytes that decoding moves, the policies that apply."""

from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.checkpoint import has_weights
from checkpoints_convert.dtypes import as_dtype
from checkpoints_convert.files import read_json
from checkpoints_convert.formats import quantization_settings
from checkpoints_convert.packed_rules import Held
from lynx_jax.loading import checkpoint_directory
from lynx_jax.models import checkpoints as models
from lynx_jax.models.checkpoints import gguf_file, open_model
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.parameters import abstract_model, declarations
from lynx_jax.models.released import PUBLISHED_KNOBS, RELEASED, released_config
from lynx_jax.models.sizes import cache_bytes, counts, weight_bytes
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.placement import check_weights, kept
from pallas_kernels.cpu import describe as native_code

_HELD = {
  None: "",
  "float": "",
  "int8": ", most weights held as int8",
  "int4": ", experts held as int4 and most other weights as int8",
}


def read_config(where: str | Path) -> dict[str, Any]:
  """A parsed config.json: of a file, of a directory, of a GGUF file, or of a released model by its name.

  Raises FileNotFoundError, naming the released models that are known, where it is none of these.
  """
  path, released = Path(where), released_config(str(where))
  if path.is_file() and gguf_file(path) is None:
    return read_json(path)
  if released is not None and not path.exists():
    return released
  try:
    return models.read_config(path)
  except FileNotFoundError as error:
    raise FileNotFoundError(f"{error}; or give a config.json, or one of {', '.join(RELEASED)}") from error


def describe(where: str | Path | None, weights: str | None = None) -> list[tuple[str, str]]:
  """Names and values to print, of the embedded model where `where` is None; no weight is read.

  `where` is a directory, whose weights are checked if it has any, or what `read_config` takes; `weights` is what
  `load` takes, and sizes in bytes follow it.
  """
  check_weights(weights)
  spec, dtype, stored, packed = _read(where)
  size, held = counts(spec), weight_bytes(abstract_model(spec, dtype, weights, packed))
  lines = [
    ("family", spec.family),
    ("dtype", f"{dtype}{stored}{_HELD[weights]}"),
    ("layers", f"{len(spec.layers)}, {len(spec.moe_layers)} with experts"),
    ("width", f"{spec.width}, vocabulary {spec.vocab}, context {spec.context} tokens, {_tied(spec)}"),
    ("attention", spec.layers[0].attention.describe()),
    *_experts(spec, held.experts),
    ("parameters", f"{_number(size.total)}, of which a token uses {_number(size.active)}"),
    ("weights", f"{_bytes(held.total)}, of which experts {_bytes(held.experts)}"),
    *_packed(spec, dtype, weights, packed, held.total),
    ("read per token alone", _bytes(held.active - held.embedding)),
    ("read per step, all experts", _bytes(held.total - held.embedding)),
    ("KV cache per token", f"{cache_bytes(spec, dtype)} bytes"),
    ("policies", _policies(spec)),
    ("on this CPU", native_code()),
  ]
  if spec.moe_layers and spec.family in PUBLISHED_KNOBS:
    policy, model = PUBLISHED_KNOBS[spec.family]
    lines.append(("published for the family", f"{policy} ({model}, arXiv 2411.08982)"))
  return lines


def _read(where: str | Path | None) -> tuple[DecoderSpec, np.dtype, str, Held]:
  """A spec, the dtype of its weights once loaded, their stored format if it is another, and what stays quantised."""
  directory = checkpoint_directory(where, download=False)
  if has_weights(directory) or gguf_file(directory) is not None:
    with open_model(directory) as (spec, checkpoint):
      dtype, kinds, packed = checkpoint.dtype, checkpoint.stored_as, checkpoint.held
  else:
    config = read_config(directory)
    spec, dtype = spec_from_config(config), _config_dtype(config)
    packed = models.expected_held(spec, config, directory)
    method = (quantization_settings(config, directory) or {}).get("quant_method")
    kinds = [method] if method else []
  return spec, dtype, f", stored as {' and '.join(kinds)}" if kinds else "", packed


def _packed(spec: DecoderSpec, dtype: np.dtype, weights: str | None, packed: Held, total: int) -> list[tuple[str, str]]:
  """A line about what stays quantised as the files have it, in a model of `total` bytes of weights."""
  declared = declarations(spec)
  forms = sorted({one.form.name for path, one in packed.items() if kept(one, declared[path].role, weights)})
  if not forms:
    return []
  plain = weight_bytes(abstract_model(spec, dtype, "float", packed)).total
  return [("kept quantised", f"{', '.join(forms)}: {_bytes(total)} for the {_bytes(plain)} of {dtype}")]


def _config_dtype(config: dict[str, Any]) -> np.dtype:
  inner = config.get("text_config") or {}
  named = [values[key] for values in (config, inner) for key in ("dtype", "torch_dtype") if values.get(key)]
  return as_dtype(named[0] if named else "bfloat16")


def _experts(spec: DecoderSpec, held: int) -> list[tuple[str, str]]:
  """Lines about the experts, whose weights take `held` bytes in all."""
  layers = spec.moe_specs
  if not layers:
    return []
  first = layers[0]
  one = held // sum(ffn.experts for ffn in layers)
  shared = "" if first.shared is None else f", and one of width {first.shared.width} for every token"
  return [
    ("experts", f"{first.experts} per layer of width {first.expert_width}, {first.top_k} per token{shared}"),
    ("router", _router(first)),
    (
      "one expert",
      f"{_bytes(one)}; a layer's {_bytes(first.experts * one)}, of which a token {_bytes(first.top_k * one)}",
    ),
  ]


def _router(moe: MoESpec) -> str:
  rule = moe.router
  parts = [rule.scoring, f"top {moe.top_k}", "renormalised" if rule.renormalize else "not renormalised"]
  if rule.groups > 1:
    parts.append(f"from the best {rule.groups_kept} of {rule.groups} groups")
  if rule.scale != 1:
    parts.append(f"times {rule.scale:g}")
  return ", ".join(parts)


def _policies(spec: DecoderSpec) -> str:
  """Which policies can change anything, and the range of their knobs."""
  if not spec.moe_specs:
    return "none: no layer has experts"
  moe = spec.moe_specs[0]
  k, most = moe.top_k, moe.experts - 1
  if k > most:
    return "topk only: a token runs every expert"
  fewer, kept = _range(1, k - 1), _range(k, most)
  tokens = [f"oea:k0={fewer}", f"prune:k0={fewer}"] if k > 1 else []
  sets = [f"xshare:budget={kept}", f"count_vote:keep={kept}", f"budget:policy,max_active={kept}"]
  return ", ".join(["topk", "auto", "lynx:alpha,beta", "mass_floor:tau=0..1", *tokens, *sets])


def _range(least: int, most: int) -> str:
  return f"{least}..{most}" if most > least else str(least)


def _number(count: float) -> str:
  return f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"


def _bytes(count: float) -> str:
  return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _tied(spec: DecoderSpec) -> str:
  return "head tied to the embedding" if spec.tied else "separate head"
