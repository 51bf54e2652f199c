"""Compiles a function for a GPU that is not there, and reads what XLA and ptxas made of it.

Needs the extra `gates` (JAX's CUDA plugin and NVIDIA's ptxas), no driver.
"""

import collections
import dataclasses
import importlib.util
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from pallas_kernels.gates.targets import TARGETS, Target
from pallas_kernels.gpu.cuda_graph import graph_options

_CUSTOM_KERNEL = re.compile(r"kCustomKernel.*?\] (\S+) grid: \[([\d, ]+)\] threads: \[(\d+).*?shared_memory: (\d+)")
_THUNK = re.compile(r"^(\s*)\d+: (k\w+)\s*(.*)$")
_PTXAS = re.compile(
  r"Compiling entry function '(\S+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers", re.S
)
_TENSOR_CORE = re.compile(r"wgmma\.mma_async|mma\.sync")
_LABEL = re.compile(r"^(\$\w+):$", re.M)
# Also behind a predicate, and several in one line of inline assembly.
_INSTRUCTION = re.compile(r"(?:^|[;{])\s*(?:@!?%\w+\s+)?([a-z][\w.:]*)(?=[\s;])", re.M)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
  """What ptxas and XLA say of one compiled kernel.

  Attributes:
    name: its entry function.
    arch: such as sm_90a.
    registers: of a thread.
    spill_bytes: stores and loads of registers that did not fit.
    shared_memory: dynamic bytes of a block.
    threads: of a block; 0 where XLA did not say.
    tensor_core: the kinds of matrix instructions it holds.
    loop: PTX instructions of its loop over products, how many of each; empty where it has no such loop.
  """

  name: str
  arch: str
  registers: int
  spill_bytes: int
  shared_memory: int
  threads: int
  tensor_core: tuple[str, ...]
  loop: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def blocks_per_sm(self, target: Target) -> int:
    """How many blocks a multiprocessor holds at once, by registers, shared memory and threads."""
    warps = max(1, self.threads // 32)
    by_registers = target.registers_sm // (warps * 32 * -(-self.registers // 8) * 8)
    by_memory = target.shared_memory_sm // (self.shared_memory + 1024)
    return min(by_registers, by_memory, 64 // warps, 32)

  def occupancy(self, target: Target) -> float:
    """Share of a multiprocessor's 64 warps that can be resident."""
    return self.blocks_per_sm(target) * max(1, self.threads // 32) / 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Thunk:
  """A step of the compiled program: its kind, what it says of itself, and how deep it is nested."""

  kind: str
  text: str
  depth: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
  """A program compiled for a target.

  Attributes:
    target: the GPU.
    hlo: the optimised module.
    thunks: the program's steps, in order.
    kernels: those with PTX, by name.
    temporary_bytes: scratch that the program allocates beside arguments and results.
    seconds: lowering and compilation.
  """

  target: Target
  hlo: str
  thunks: tuple[Thunk, ...]
  kernels: Mapping[str, Kernel]
  temporary_bytes: int
  seconds: float


def compile_for(
  fn: Callable[..., Any],
  args: Any,
  target: str | Target = "h100",
  *,
  graph: bool = True,
  options: Mapping[str, str | bool] | None = None,
  donate_argnums: int | tuple[int, ...] = (),
) -> Report:
  """Compiles `fn(*args)` for one GPU.

  Args:
    fn: a function of arrays.
    args: a tuple of pytrees of arrays or `jax.ShapeDtypeStruct`; nothing is allocated.
    target: a name of `TARGETS`, or a Target.
    graph: whether to compile with the options that decode loops are compiled with.
    options: more XLA options.
    donate_argnums: arguments whose memory the results may take over.

  Raises:
    ModuleNotFoundError: the extra `gates` is not installed.
    RuntimeError: ptxas refused the program, as one that is older than jaxlib does.
  """
  target = TARGETS[target] if isinstance(target, str) else target
  topology = topologies.get_topology_desc(
    platform="cuda", topology_name="", topology="1x1x1", target_config=target.config()
  )
  mesh = jax.sharding.Mesh(topology.devices, ("device",))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  args = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), args)
  start = time.perf_counter()
  with tempfile.TemporaryDirectory() as folder:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      lowered = jax.jit(fn, donate_argnums=donate_argnums).trace(*args).lower(lowering_platforms=("cuda",))
    settings: dict[str, str | bool] = {"xla_dump_to": folder, "xla_dump_emitter_re": "ptx"}
    settings.update(graph_options() if graph else {})
    settings.update(options or {})
    compiled = lowered.compile(compiler_options=settings)
    seconds = time.perf_counter() - start
    thunks = _thunk_dump(Path(folder))
    geometry = {name: (int(threads), int(shared)) for name, _, threads, shared in _CUSTOM_KERNEL.findall(thunks)}
    kernels = {}
    for path in sorted(Path(folder).glob("*.ptx")):
      for kernel in _read_ptx(path, geometry):
        kernels[kernel.name] = kernel
  memory = compiled.memory_analysis()
  return Report(
    target=target,
    hlo=compiled.as_text() or "",
    thunks=tuple(_read_thunks(thunks)),
    kernels=kernels,
    temporary_bytes=0 if memory is None else memory.temp_size_in_bytes,
    seconds=seconds,
  )


def ptxas() -> Path:
  """NVIDIA's assembler, of the wheel `nvidia-cuda-nvcc` for CUDA 13, or else of `nvidia-cuda-nvcc-cu12`.

  Raises:
    ModuleNotFoundError: neither wheel is installed.
  """
  for package in ("nvidia.cu13", "nvidia.cuda_nvcc"):
    try:
      found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
      continue
    for folder in (found and found.submodule_search_locations) or ():
      if (program := Path(folder) / "bin" / "ptxas").is_file():
        return program
  raise ModuleNotFoundError("ptxas is not installed: pip install 'lynx-jax[gates]'")


def _thunk_dump(folder: Path) -> str:
  """The program after all passes; where nothing was rewritten there is only the first dump."""
  for pattern in ("*thunk_sequence_after*", "*thunk_sequence.txt"):
    for path in folder.glob(pattern):
      return path.read_text()
  raise FileNotFoundError("XLA dumped no thunk sequence: this version of jaxlib names it otherwise")


def _read_thunks(dump: str) -> list[Thunk]:
  thunks = []
  for line in dump.splitlines():
    if match := _THUNK.match(line):
      indent, kind, text = match.groups()
      thunks.append(Thunk(kind=kind, text=text, depth=len(indent)))
  return thunks


def _output(command: list[str]) -> str:
  """What ptxas says of a program."""
  ran = subprocess.run(command, capture_output=True, text=True, check=False)
  if ran.returncode:
    said = (ran.stderr or ran.stdout).strip() or f"exit status {ran.returncode}"
    raise RuntimeError(
      f"{command[0]} refused what XLA wrote; where it is older than jaxlib, "
      f"pip install --upgrade nvidia-cuda-nvcc brings a newer one. It said: {said[:500]}"
    )
  return ran.stderr


def _read_ptx(path: Path, geometry: Mapping[str, tuple[int, int]]) -> list[Kernel]:
  ptx = path.read_text()
  arch = re.search(r"\.target (sm_\w+)", ptx)
  if arch is None:
    return []
  command = [str(ptxas()), f"-arch={arch.group(1)}", "-v", str(path), "-o", "/dev/null"]
  log = _output(command)
  kernels = []
  for name, stores, loads, registers in _PTXAS.findall(log):
    threads, shared = geometry.get(name, (0, 0))
    kernels.append(
      Kernel(
        name=name,
        arch=arch.group(1),
        registers=int(registers),
        spill_bytes=int(stores) + int(loads),
        shared_memory=shared,
        threads=threads,
        tensor_core=tuple(sorted(set(_TENSOR_CORE.findall(ptx)))),
        loop=_loop(ptx[ptx.index(f".entry {name}") :]),
      )
    )
  return kernels


def _loop(ptx: str) -> Mapping[str, int]:
  """Instructions of the loop that holds the most matrix instructions, of one kernel's text."""
  body = ptx[: ptx.index("\n}\n")] if "\n}\n" in ptx else ptx
  loops = [body[label.end() : last.end()] for label in _LABEL.finditer(body) for last in _branches(body, label)]
  products = max(loops, key=lambda loop: len(_TENSOR_CORE.findall(loop)), default="")
  return collections.Counter(_INSTRUCTION.findall(products)) if _TENSOR_CORE.search(products) else {}


def _branches(body: str, label: re.Match[str]) -> list[re.Match[str]]:
  """The last branch back to a label, if there is one."""
  return list(re.compile(rf"\bbra(?:\.uni)?\s+{re.escape(label.group(1))};").finditer(body, label.end()))[-1:]
