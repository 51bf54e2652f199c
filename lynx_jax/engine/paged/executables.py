"""Compiled programs in this process and on the disk, found again by everything that went into them."""

import collections
import contextlib
import functools
import hashlib
import logging
import os
import pickle
import platform
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jaxlib.version
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from pallas_kernels.cpu import unavailable

_LOG = logging.getLogger(__name__)
_PACKAGES = ("lynx_jax", "pallas_kernels")
_MOST_KEPT = 48
_kept: collections.OrderedDict[str, Any] = collections.OrderedDict()
_kept_lock = threading.Lock()


def forget_executables() -> None:
  """Lets go of the executables that this process keeps, as `jax.clear_caches` does of JAX's own."""
  with _kept_lock:
    _kept.clear()


class Executables:
  """Executables of this process, and of a directory.

  Engines of one model in one process share programs; the least recently used of many are let go. An executable from the
  disk needs neither tracing nor compiling, the longest part of a start. Its file is a pickle, so
  the directory must belong to the user alone: it is made with access for its owner only.
  """

  def __init__(self, directory: Path | None):
    """`directory` None is beside JAX's compilation cache; if that is off, nothing is kept on the disk."""
    beside = jax.config.values["jax_compilation_cache_dir"]
    self._directory = Path(beside) / "steps" if directory is None and beside else directory

  def load_or_build(self, key: object, build: Callable[[], Any], name: str) -> tuple[Any, str]:
    """The executable of `key`, and where it came from: `from memory`, `from disk` or `compiled`.

    A file that cannot be read is built again. A directory that cannot be written is said once a program, and left.
    """
    digest = _digest(key)
    with _kept_lock:
      if digest in _kept:
        _kept.move_to_end(digest)
        return _kept[digest], "from memory"
    found, source = self._from_disk_or_built(digest, build, name)
    with _kept_lock:
      _kept[digest] = found
      while len(_kept) > _MOST_KEPT:
        _kept.popitem(last=False)
    return found, source

  def _from_disk_or_built(self, digest: str, build: Callable[[], Any], name: str) -> tuple[Any, str]:
    if self._directory is None:
      return build(), "compiled"
    path = self._directory / f"{digest}.step"
    try:
      payload = pickle.loads(path.read_bytes())
      # Programs name native code, which is known to XLA once its library is loaded.
      unavailable()
      # A step runs on one device. Unasked, JAX would load the program for all of them.
      one = jax.devices()[:1]
      return serialize_executable.deserialize_and_load(*payload, execution_devices=one), "from disk"
    except FileNotFoundError:
      pass
    except Exception as error:  # a damaged file can raise anything
      _LOG.warning("%s: the executable kept at %s cannot be read (%s); it is compiled again", name, path, error)
    with _without_jax_cache():
      compiled = build()
    try:
      self._store(path, pickle.dumps(serialize_executable.serialize(compiled)))
    except (OSError, ValueError) as error:
      _LOG.warning("%s: its executable is not kept: %s", name, error)
    return compiled, "compiled"

  def _store(self, path: Path, content: bytes) -> None:
    """Writes the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
      with os.fdopen(handle, "wb") as file:
        file.write(content)
      Path(partial).replace(path)
    except BaseException:
      Path(partial).unlink(missing_ok=True)
      raise


@contextlib.contextmanager
def _without_jax_cache() -> Iterator[None]:
  """Has JAX compile anew: what comes out of its own cache cannot be stored again on a CPU.

  Such an executable lacks functions that its own code calls, and fails when it is loaded (`Function ... not found`).
  """
  directory = jax.config.values["jax_compilation_cache_dir"]
  if directory is None:
    yield
    return
  jax.config.update("jax_compilation_cache_dir", None)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    jax.config.update("jax_compilation_cache_dir", directory)
    compilation_cache.reset_cache()


def _digest(key: object) -> str:
  """A name for everything that the machine code depends on."""
  return hashlib.sha256(repr((key, _surroundings())).encode()).hexdigest()[:40]


def _surroundings() -> tuple[Any, ...]:
  """Versions, device, flags and our own code."""
  device = jax.devices()[0]
  flags = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(("XLA_", "LYNX_"))))
  settings = [jax.config.values[name] for name in ("jax_enable_x64", "jax_default_matmul_precision")]
  return (
    jax.__version__,
    jaxlib.version.__version__,
    device.platform,
    device.device_kind,
    device.client.platform_version,
    jax.device_count(),
    _processor() if device.platform == "cpu" else "",
    flags,
    settings,
    _our_code(),
  )


@functools.cache
def _our_code() -> str:
  """A digest of the packages' Python files, and of the native code beside them."""
  digest = hashlib.sha256()
  for package in _PACKAGES:
    root = Path(__import__(package).__file__ or "").parent
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.so"), *root.rglob("*.json")]):
      digest.update(f"{path.relative_to(root)}\0".encode())
      digest.update(path.read_bytes())
  return digest.hexdigest()


@functools.cache
def _processor() -> str:
  """The processor's instructions: code is compiled for this machine's."""
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor()
  return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
