"""Models by their names on the Hugging Face Hub, such as `Qwen/Qwen3-30B-A3B`: from the local cache, or downloaded.

The cache is that of `huggingface_hub`, so what transformers or `hf download` have fetched is found, and the settings of
that package hold: HF_HOME for the place, HF_TOKEN for models that need one, HF_HUB_OFFLINE for no network.
"""

import json
import os
import re
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SMALL = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt")
_SAFETENSORS, _PYTORCH = "*.safetensors", "pytorch_model*.bin"
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin")


def is_hub_name(path: str | os.PathLike[str]) -> bool:
  """Whether `path` is nothing on this machine, and reads like a model's name on the hub."""
  return isinstance(path, str) and _NAME.fullmatch(path) is not None and not Path(path).exists()


def cached_directory(name: str) -> Path | None:
  """The files of a model in the cache, or None where it does not have all of them."""
  try:
    from huggingface_hub import snapshot_download

    cached = Path(snapshot_download(name, local_files_only=True))
  except (ImportError, OSError):
    return None
  return cached if is_complete(cached) else None


def hub_directory(name: str) -> Path:
  """The files of a model, downloaded first where the cache does not have them; the hub's own bars show how far it is.

  Raises:
    FileNotFoundError: they are not in the cache and cannot be had; the message says why, and what to do.
  """
  cached = cached_directory(name)
  if cached is not None:
    return cached
  try:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
  except ImportError:
    raise _not_found(name, "huggingface_hub is not installed (pip install huggingface_hub)") from None
  try:
    files = HfApi().list_repo_files(name)
    weights = _SAFETENSORS if any(file.endswith(".safetensors") for file in files) else _PYTORCH
    # Some repositories hold the same weights again, in another form, in folders.
    return Path(snapshot_download(name, allow_patterns=[*_SMALL, weights], ignore_patterns=["*/*"]))
  except OfflineModeIsEnabled:
    raise _not_found(name, "HF_HUB_OFFLINE forbids to download it") from None
  except HfHubHTTPError as error:
    status: int = getattr(error.response, "status_code", 0)
    reason = {
      401: "the hub has no public model of that name; a private one needs HF_TOKEN",
      403: "its owners must grant access first, on its page; then set HF_TOKEN",
      404: "the hub has no model of that name",
    }.get(status, f"the hub answers {status}")
    raise _not_found(name, reason) from error
  except (OSError, RuntimeError) as error:
    raise _not_found(name, f"the hub cannot be reached ({type(error).__name__})") from error


def is_complete(directory: Path) -> bool:
  """Whether a directory has config.json and every file of weights that its index names."""
  if not (directory / "config.json").is_file():
    return False
  for name in _INDICES:
    if (directory / name).is_file():
      files = set(json.loads((directory / name).read_text(encoding="utf-8"))["weight_map"].values())
      return all((directory / file).is_file() for file in files)
  return any((directory / name).is_file() for name in _WHOLE)


def _not_found(name: str, reason: str) -> FileNotFoundError:
  return FileNotFoundError(
    f"{name!r} is no directory here, and not in the cache of the Hugging Face Hub; {reason}. The model's files must be "
    f"downloaded first: hf download {name} --local-dir DIR (older: huggingface-cli download), then give DIR"
  )
