"""Files and functions stay short enough to read at one sitting."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "checkpoints_convert", "examples", "experiments", "lynx_jax", "pallas_kernels", "tests")
MOST_LINES = 400
# A kernel is one piece of arithmetic whose parts share names, and C++ says twice what it declares.
MOST_KERNEL_LINES = 600
MOST_FUNCTION_LINES = 60


def is_kernel(path: Path) -> bool:
  """C++ anywhere, and the Pallas kernels: `pallas_kernels/OP/triton.py`."""
  return path.suffix in (".cc", ".h") or (path.parts[0] == "pallas_kernels" and path.name == "triton.py")


def long_files(root: Path) -> set[str]:
  """Files of code under `root` with too many lines, named from there."""
  found = set()
  for path in code(root, ".py", ".cc", ".h"):
    most = MOST_KERNEL_LINES if is_kernel(path) else MOST_LINES
    if len((root / path).read_text().splitlines()) > most:
      found.add(path.as_posix())
  return found


def long_functions(root: Path) -> set[str]:
  """Functions and methods under `root` with too many lines, the docstring counted and decorators not: FILE:NAME."""
  found = set()
  for path in code(root, ".py"):
    for node in ast.walk(ast.parse((root / path).read_text())):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines(node) > MOST_FUNCTION_LINES:
        found.add(f"{path.as_posix()}:{node.name}")
  return found


def lines(node: ast.stmt) -> int:
  assert node.end_lineno is not None
  return node.end_lineno - node.lineno + 1


def code(root: Path, *suffixes: str) -> list[Path]:
  return [
    path.relative_to(root)
    for folder in FOLDERS
    for path in sorted((root / folder).rglob("*"))
    if path.suffix in suffixes
  ]


def test_files_are_short():
  assert long_files(ROOT) == set()


def test_functions_are_short():
  assert long_functions(ROOT) == set()


@pytest.mark.parametrize(
  ("path", "lines", "is_long"),
  [
    ("lynx_jax/some.py", MOST_LINES, False),
    ("lynx_jax/some.py", MOST_LINES + 1, True),
    ("pallas_kernels/op/triton.py", MOST_LINES + 1, False),
    ("pallas_kernels/op/triton.py", MOST_KERNEL_LINES + 1, True),
    ("pallas_kernels/op/reference.py", MOST_LINES + 1, True),
    ("pallas_kernels/cpu/src/op.cc", MOST_KERNEL_LINES, False),
    ("tests/some.cc", MOST_KERNEL_LINES + 1, True),
  ],
)
def test_a_file_that_is_too_long_is_seen(tmp_path: Path, path: str, lines: int, is_long: bool):
  (tmp_path / path).parent.mkdir(parents=True)
  (tmp_path / path).write_text("pass\n" * lines)
  assert long_files(tmp_path) == ({path} if is_long else set())


@pytest.mark.parametrize(("lines", "is_long"), [(MOST_FUNCTION_LINES, False), (MOST_FUNCTION_LINES + 1, True)])
def test_a_method_that_is_too_long_is_seen(tmp_path: Path, lines: int, is_long: bool):
  (tmp_path / "lynx_jax").mkdir()
  body = "    pass\n" * (lines - 1)
  (tmp_path / "lynx_jax/some.py").write_text(f"class Some:\n  @property\n  def method(self):\n{body}")
  assert long_functions(tmp_path) == ({"lynx_jax/some.py:method"} if is_long else set())
