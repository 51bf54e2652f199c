"""`load`: a checkpoint directory, or the embedded model, as one pytree."""

import functools
import os
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from checkpoints_convert.dtypes import as_dtype
from lynx_jax.models.checkpoints import open_model
from lynx_jax.models.int8 import check_weights, is_int8
from lynx_jax.models.parameters import assemble
from lynx_jax.models.params import Params
from lynx_jax.text.tokenizer import Tokenizer
from pallas_kernels import Int8Weight, quantize, stored_experts

_EXPERT_WEIGHTS = (".ffn.gate_up", ".ffn.down")


def load(path: str | os.PathLike[str] | None = None, *, dtype: Any = None, weights: str | None = None) -> Params:
  """Loads weights, spec and tokenizer onto the default device.

  Weights go over parameter by parameter, so that the host never holds the model twice. On the CPU, bfloat16 experts
  are held as uint16 with the same bits, the form that decoding reads in place; to differentiate, load float32.
  Weights that the files hold quantised (fp8, mxfp4) are dequantised, to bfloat16 unless `dtype` says otherwise.

  Args:
    path: a Hugging Face model directory (safetensors or PyTorch files), one that `python -m checkpoints_convert`
      made, or None for the model that comes with the package.
    dtype: bfloat16, float16 or float32, as a name or type; None keeps the checkpoint's.
    weights: "int8" holds experts, attention's projections, dense and shared networks and the head as whole numbers of
      8 bits with a scale an output (symmetric): half the bytes of bfloat16, which `dtype` then says for the rest, the
      activations among it. Norms, biases, routers and MLA's expansions stay in it. None keeps all in `dtype`.

  Returns:
    Params; its `tokenizer` is None where the directory has no tokenizer.json.

  Raises:
    OSError: there is no checkpoint directory at `path`; the message says what is, or how to download one.
    ValueError: the checkpoint cannot be used, or `dtype` or `weights` is not supported; the message names the file,
      the setting or the tensor, and the remedy.
  """
  directory = checkpoint_directory(path)
  wanted = None if dtype is None else as_dtype(dtype)
  check_weights(weights)
  with open_model(directory) as (spec, checkpoint):
    parameters = checkpoint.parameters(checkpoint.dtype if wanted is None else wanted)
    narrow = functools.partial(is_int8, tied=spec.tied) if weights == "int8" else lambda name: False
    held = {name: _int8(name, array) if narrow(name) else _to_device(name, array) for name, array in parameters}
    decoder = assemble(spec, held)
  return Params(decoder=decoder, tokenizer=Tokenizer.from_directory(directory))


def checkpoint_directory(path: str | os.PathLike[str] | None) -> Path:
  """`path`, or where the embedded model lies; FileNotFoundError where the installation has none."""
  if path is not None:
    return Path(path)
  directory = Path(str(resources.files("lynx_jax"))) / "embedded"
  if not (directory / "config.json").is_file():
    raise FileNotFoundError(
      f"this installation has no embedded model (looked in {directory}): give the path of a model directory"
    )
  return directory


def _int8(name: str, array: np.ndarray) -> Int8Weight:
  try:
    values, scales = quantize(array)
  except ValueError as error:
    raise ValueError(f"{name}: {error}") from error
  return Int8Weight(_to_device(name, np.asarray(values)), _to_device(name, np.asarray(scales)))


def _to_device(name: str, array: np.ndarray) -> jax.Array:
  if name.endswith(_EXPERT_WEIGHTS) and array.ndim == 3:
    array = stored_experts(array, jax.default_backend())
  return jax.device_put(array)
