"""Builds the native library with the machine's C++ compiler; needs nothing but Python's standard library.

`python -m pallas_kernels.cpu.build` builds it in place, after a change of its sources.
"""

import os
import platform
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

HOME = Path(__file__).parent
SOURCE = HOME / "src"
LIBRARY = "liblynx.so"
REASON = "not_built.txt"

_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")
_AVX512_BF16 = (*_AVX512, "-mavx512bf16", "-mavx512vnni")
_SETS: Mapping[str, tuple[int, tuple[str, ...]]] = MappingProxyType(
  {
    # Its tile instructions are written in assembly: old compilers have no name for them, but their assemblers may.
    "amx_bf16": (16, (*_AVX512_BF16, "-DLYNX_TILES=1")),
    "avx512_bf16": (16, _AVX512_BF16),
    "avx512": (16, _AVX512),
    "avx2": (8, ("-mavx2", "-mfma")),
    "portable": (4, ()),
  }
)
EMULATED_TILES = "-DLYNX_EMULATED_TILES"
"""A flag of `build` that makes the set with tiles run on any processor, slowly: for tests."""
# A choice between sums that all but tie is the same as XLA's without fused multiply-adds; loops become vectors if
# comparisons may be made early.
_OWN_FLAGS: Mapping[str, tuple[str, ...]] = MappingProxyType({"keep_sets": ("-ffp-contract=off", "-fno-trapping-math")})
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wno-psabi")


def fingerprint() -> int:
  """A number that changes with the sources; 0 in an installation from a wheel, which has none."""
  if not SOURCE.is_dir():
    return 0
  files = sorted(path for path in SOURCE.iterdir() if path.suffix in (".cc", ".h"))
  return zlib.crc32(b"".join(path.read_bytes() for path in files))


class BuildError(RuntimeError):
  """There is no compiler, or it failed; the message is one line."""


def compiler(preferred: str | None = None) -> str:
  """The C++ compiler to use.

  Raises:
    BuildError: there is none.
  """
  names = [preferred] if preferred else ["c++", "g++", "clang++"]
  for name in names:
    if shutil.which(name):
      return name
  raise BuildError(f"no C++ compiler (looked for {', '.join(names)})")


def objects(flags: Sequence[str] = ()) -> list[tuple[str, str, tuple[str, ...]]]:
  """What is compiled: object name, source file, flags of its own beside `flags`."""
  names = tuple(_SETS) if platform.machine().lower() in ("x86_64", "amd64") else ("portable",)
  chosen = dict(_SETS)
  if EMULATED_TILES in flags:
    chosen["amx_bf16"] = (4, ("-DLYNX_TILES=1",))
  sets = [
    (f"products_{name}", "products.cc", (f"-DLYNX_SET={name}", f"-DLYNX_LANES={lanes}", *own))
    for name, (lanes, own) in chosen.items()
    if name in names
  ]
  rest = [
    (path.stem, path.name, _OWN_FLAGS.get(path.stem, ()))
    for path in sorted(SOURCE.glob("*.cc"))
    if path.name != "products.cc"
  ]
  return sets + rest


def build(
  target: Path,
  *,
  cxx: str | None = None,
  flags: Sequence[str] = (),
  extra_sources: Sequence[Path] = (),
  link: Sequence[str] = ("-shared",),
) -> None:
  """Compiles and links everything into `target`, all of it or nothing.

  Args:
    target: the file to make.
    cxx: the compiler; None looks for one.
    flags: of every compilation and of the link, after the usual ones.
    extra_sources: files to compile beside those of this directory.
    link: how to link; a program has none of the default.

  Raises:
    BuildError: no compiler, or it failed.
  """
  cxx = compiler(cxx)
  with tempfile.TemporaryDirectory() as folder:
    work = [*objects(flags), *((f"extra_{path.stem}", str(path), ("-I", str(SOURCE))) for path in extra_sources)]
    files = [str(Path(folder) / f"{name}.o") for name, _, _ in work]
    commands = [
      [cxx, *_FLAGS, f"-DLYNX_SOURCES={fingerprint()}u", *own, *flags, "-c", str(SOURCE / source), "-o", file]
      for (_, source, own), file in zip(work, files, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
      list(threads.map(_run, commands))
    made = Path(folder) / target.name
    _run([cxx, *files, *link, "-pthread", *flags, "-o", str(made)])
    target.parent.mkdir(parents=True, exist_ok=True)
    # Renamed into place, so that a process that has the old file open keeps it whole.
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(made, beside)
    beside.chmod(0o755)
    beside.replace(target)


def build_or_say_why(folder: Path, *, cxx: str | None = None) -> Path:
  """Leaves one of two files in `folder`, and returns it: the library, or the reason why there is none."""
  library, reason = folder / LIBRARY, folder / REASON
  try:
    build(library, cxx=cxx)
  except BuildError as error:
    library.unlink(missing_ok=True)
    reason.write_text(f"{error}\n")
    return reason
  reason.unlink(missing_ok=True)
  return library


def _run(command: Sequence[str]) -> None:
  try:
    subprocess.run(command, check=True, capture_output=True, text=True)
  except OSError as error:
    raise BuildError(f"{command[0]} cannot be run: {error}") from error
  except subprocess.CalledProcessError as error:
    lines = [line for line in error.stderr.splitlines() if "error" in line.lower()] or error.stderr.splitlines()
    raise BuildError(f"{command[0]} failed: {lines[0].strip() if lines else 'no message'}") from error


if __name__ == "__main__":
  if not SOURCE.is_dir():
    raise SystemExit("this installation has no C++ sources: install lynx-jax again to build the library")
  made = build_or_say_why(HOME)
  print(made if made.name == LIBRARY else made.read_text().strip())
