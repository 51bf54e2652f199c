"""`load`: a checkpoint directory, or the embedded model, as one pytree."""

import logging
import os
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.dtypes import as_dtype
from checkpoints_convert.gguf_files import read_metadata
from lynx_jax.hub import cached_directory, hub_directory, is_hub_name
from lynx_jax.models.checkpoints import gguf_file, open_model
from lynx_jax.models.parameters import assemble, declarations
from lynx_jax.models.params import Params
from lynx_jax.placement import Role, check_weights, kept, place
from lynx_jax.text.tokenizer import Tokenizer
from pallas_kernels import QuantizedWeight, Weight
from pallas_kernels.checks import require

_LOG = logging.getLogger(__name__)


def load(path: str | os.PathLike[str] | None = None, *, dtype: Any = None, weights: str | None = None) -> Params:
  """Loads weights, spec and tokenizer onto the default device.

  Each parameter is copied to the device as soon as it is read, so the host never holds the whole model twice. On the
  CPU, bfloat16 experts are held as their bits, the form that decoding reads in place; to differentiate, load float32.

  Matrices that the files hold quantised stay so: they take no more memory than there, and their numbers are those of
  the files. What is not a matrix of products, or is in a form that no `pallas_kernels.Form` holds, is dequantised. A
  warning is logged of matrices that are, and of those of GGUF files that take more bits than there, or rounded scales.

  Args:
    path: a Hugging Face model directory (safetensors or PyTorch files), one that `python -m checkpoints_convert`
      made, a GGUF file or a directory with one and no other weights, the name of a model on the Hugging Face Hub,
      such as `Qwen/Qwen3-30B-A3B` (from its cache, or downloaded into it), or None for the model that comes with the
      package. A GGUF file brings its own configuration and tokenizer; a tokenizer.json beside it comes first.
    dtype: bfloat16, float16 or float32, as a name or type: that of activations, and of all weights that are not held
      quantised. None keeps the checkpoint's.
    weights: None keeps what the files hold, quantised or not. "float" dequantises: all weights are plain numbers of
      `dtype`, as training needs them. "int8" holds experts, attention's projections, dense and shared networks and the
      head as whole numbers of 8 bits with a scale an output (symmetric): half the bytes of bfloat16. "int4" holds
      experts in 4 bits with a scale for every 32 inputs (4.5 bits in all), and the others as "int8" does. Activations,
      norms, biases, routers and MLA's expansions stay in `dtype`. With "int8" and "int4", what the files hold in
      another form is dequantised and quantised anew, which costs some of its precision.

  Returns:
    Params; its `tokenizer` is None where there is none.

  Raises:
    OSError: there is no checkpoint directory at `path`; the message says what is, or how to download one.
    ValueError: the checkpoint cannot be used, or `dtype` or `weights` is not supported; the message names the file,
      the setting or the tensor, and the remedy.
  """
  directory = checkpoint_directory(path)
  wanted = None if dtype is None else as_dtype(dtype)
  check_weights(weights)
  with open_model(directory) as (spec, checkpoint):
    declared = declarations(spec)
    packed = [path for path, stored in checkpoint.held.items() if kept(stored, declared[path].role, weights)]
    for line in checkpoint.changes(packed) if weights is None else ():
      _LOG.warning("%s", line)
    parameters = checkpoint.parameters(checkpoint.dtype if wanted is None else wanted, kept=packed)
    held = {}
    for path, array in parameters:
      held[path] = _placed(path, array, declared[path].role, weights)
      # Otherwise it would be there until the next one has been read.
      del array
    decoder = assemble(spec, held)
  return Params(decoder=decoder, tokenizer=_tokenizer(directory))


def _tokenizer(path: Path) -> Tokenizer | None:
  file = gguf_file(path)
  return Tokenizer.from_directory(path) if file is None else Tokenizer.from_gguf(read_metadata(file), file)


def checkpoint_directory(path: str | os.PathLike[str] | None, *, download: bool = True) -> Path:
  """`path`, or where the model of that name on the hub lies, or the embedded one.

  A model of the hub that is not in its cache is downloaded with `download`; without it `path` stays a path.

  Raises:
    FileNotFoundError: the installation has no embedded model, or the hub's cannot be had.
  """
  if path is not None:
    require(os.fspath(path) != "", "path", path, "a model directory", "None is the embedded model")
    if not isinstance(path, str) or not is_hub_name(path):
      return Path(path)
    return hub_directory(path) if download else cached_directory(path) or Path(path)
  directory = Path(str(resources.files("lynx_jax"))) / "embedded"
  if not (directory / "config.json").is_file():
    raise FileNotFoundError(
      f"this installation has no embedded model (looked in {directory}): give the path of a model directory"
    )
  return directory


def _placed(path: str, array: np.ndarray | QuantizedWeight, role: Role, weights: str | None) -> Weight:
  try:
    return place(array, role, weights)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
