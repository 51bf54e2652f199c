"""Result pages of the documentation: one a machine and date, written by the benchmarks and never by hand.

    python -m benchmarks.decode_speed .work/905m --results docs/results --machine zen5      # adds or replaces one table
    python -m benchmarks.results docs/results              # renders every page and the index from their JSON files
    python -m benchmarks.results docs/results --check      # only says which pages are not what their JSON file gives

A benchmark that is given `--results DIR --machine NAME` puts its table into `DIR/NAME-DATE.json`, with the facts of the
machine, the command and the commit, and renders `DIR/NAME-DATE.md` from that file.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
from rich.table import Table

from checkpoints_convert.files import write_json, write_text
from pallas_kernels.cpu import describe, read_bandwidth

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_FOLDER = "docs/results"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
  """What a result was measured on.

  Attributes:
    name: short, of small letters, digits and hyphens: the name of its files.
    title: how the page calls it.
    facts: processor, cores, instruction set, memory's read bandwidth, versions; by name.
  """

  name: str
  title: str
  facts: dict[str, str]

  def __post_init__(self) -> None:
    if not _NAME.fullmatch(self.name):
      raise ValueError(f"machine is {self.name!r}: expected small letters, digits and hyphens, such as zen5")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResultTable:
  """One table of a page.

  Attributes:
    name: what tells it from the page's other tables; measuring again replaces it.
    title: its heading.
    about: what was measured and how to read it, in Markdown.
    commands: what prints it.
    commit: of lynx_jax; empty where it was not recorded.
    columns: headings.
    rows: cells, as text.
  """

  name: str
  title: str
  about: str
  commands: tuple[str, ...]
  commit: str
  columns: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]

  def __post_init__(self) -> None:
    for row in self.rows:
      if len(row) != len(self.columns):
        raise ValueError(f"{self.name}: a row has {len(row)} cells for {len(self.columns)} columns: {row}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
  """All tables of one machine and date."""

  machine: Machine
  date: str
  tables: tuple[ResultTable, ...]

  @classmethod
  def read(cls, path: Path) -> "Page":
    """The page that a JSON file holds."""
    found = json.loads(path.read_text(encoding="utf-8"))
    tables = [
      ResultTable(
        **(table | {key: tuple(table[key]) for key in ("commands", "columns")})
        | {"rows": tuple(map(tuple, table["rows"]))}
      )
      for table in found["tables"]
    ]
    return cls(machine=Machine(**found["machine"]), date=found["date"], tables=tuple(tables))

  @property
  def stem(self) -> str:
    """The name of its files, without a suffix."""
    return f"{self.machine.name}-{self.date}"

  def with_table(self, table: ResultTable) -> "Page":
    """This page with `table` at its end, or in the place of the one of its name."""
    tables = [table if one.name == table.name else one for one in self.tables]
    if table not in tables:
      tables.append(table)
    return dataclasses.replace(self, tables=tuple(tables))


def this_machine(name: str) -> Machine:
  """What can be told of the machine that this process runs on; reads memory for a moment."""
  bandwidth = read_bandwidth(1 << 29, 3)
  device = jax.devices()[0]
  facts = {
    "Processor": _processor(),
    "Cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
    "Native code": describe(),
    "Plain reading of memory": f"{bandwidth / 1e9:.1f} GB/s" if bandwidth else "not measured",
    "Device": device.device_kind if device.platform != "cpu" else "",
    "Python, jax": f"{platform.python_version()}, {jax.__version__}",
  }
  title = facts["Device"] or facts["Processor"]
  return Machine(name=name, title=title, facts={key: value for key, value in facts.items() if value})


def commit() -> str:
  """The commit that runs, with a plus where files differ from it; empty outside of a repository."""
  told = subprocess.run(
    ["git", "describe", "--always", "--dirty=+"],
    cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
  )  # fmt: skip
  return told.stdout.strip()


def result_table(
  table: Table, name: str, about: str, commands: Iterable[str], *, title: str | None = None
) -> ResultTable:
  """A table as a benchmark prints it, to be kept."""
  cells = [[str(cell) for cell in column.cells] for column in table.columns]
  return ResultTable(
    name=name,
    title=title or str(table.title),
    about=about,
    commands=tuple(commands),
    commit=commit(),
    columns=tuple(str(column.header) for column in table.columns),
    rows=tuple(zip(*cells, strict=True)),
  )


def add_result_options(parser: argparse.ArgumentParser) -> None:
  """Adds `--results` and `--machine` to a benchmark's options."""
  parser.add_argument("--results", type=Path, metavar="DIR", help=f"keep the table there, such as {_FOLDER}")
  parser.add_argument("--machine", default="", help="its name among the results, such as zen5; needed by --results")


def keep(
  args: argparse.Namespace, table: Table, argv: Sequence[str] | None, *, module: str, name: str, about: str
) -> None:
  """Keeps a printed table where `--results` was given.

  Args:
    args: the benchmark's parsed options.
    table: what it printed.
    argv: its command line, or None for that of this process.
    module: the benchmark, as `python -m` takes it.
    name: of the table.
    about: what it measures, in Markdown.
  """
  if args.results is None:
    return
  words = _without_results(sys.argv[1:] if argv is None else argv)
  kept = result_table(table, name, about, [shlex.join(["python", "-m", module, *words])])
  page = save(args.results, this_machine(args.machine), kept)
  print(f"wrote {args.results / page.stem}.md", file=sys.stderr)


def save(folder: Path, machine: Machine, table: ResultTable, date: str | None = None) -> Page:
  """Puts a table into the page of this machine and date, and writes the page's JSON and Markdown, and the index."""
  date = date or datetime.datetime.now(datetime.UTC).date().isoformat()
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f"{machine.name}-{date}.json"
  page = Page.read(path) if path.exists() else Page(machine=machine, date=date, tables=())
  page = page.with_table(table)
  write_json(path, dataclasses.asdict(page))
  for target, text in rendered(folder).items():
    if not target.exists() or target.read_text(encoding="utf-8") != text:
      write_text(target, text)
  return page


def rendered(folder: Path) -> dict[Path, str]:
  """What every page of a folder, and its index, should hold."""
  pages = [Page.read(path) for path in sorted(folder.glob("*.json"))]
  texts = {folder / f"{page.stem}.md": "\n".join(_page_lines(page)) + "\n" for page in pages}
  # Reports that another program wrote, such as gpu_report's.
  reports = {path.stem: _heading(path) for path in sorted(folder.glob("*.md")) if path not in texts}
  reports.pop("index", None)
  return texts | {folder / "index.md": "\n".join(_index_lines(pages, reports)) + "\n"}


def _page_lines(page: Page) -> Iterable[str]:
  yield f"<!-- Written by benchmarks/results.py from {page.stem}.json: do not edit. -->"
  yield f"# {page.machine.title}, {page.date}"
  yield ""
  yield from _markdown_table(("", ""), page.machine.facts.items())
  for table in page.tables:
    yield from ("", f"## {table.title}", "", table.about, "", "```console")
    yield from (f"$ {command}" for command in table.commands)
    yield from ("```", "")
    yield from _markdown_table(table.columns, table.rows)
    if table.commit:
      yield from ("", f"Commit {table.commit}.")


def _heading(path: Path) -> str:
  """The first heading of a Markdown file, or its name."""
  lines = path.read_text(encoding="utf-8").splitlines()
  return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), path.stem)


def _index_lines(pages: Sequence[Page], reports: dict[str, str]) -> Iterable[str]:
  yield "<!-- Written by benchmarks/results.py: do not edit. -->"
  yield "# Results"
  yield ""
  yield "Each page holds what was measured on one machine, or on one model, at one date. Benchmarks write these pages;"
  yield "[Run the benchmarks](../guides/run_the_benchmarks.md) says how. Times of shared machines vary by a factor of"
  yield "two from hour to hour; ratios that were measured in one run vary less."
  yield ""
  newest = sorted(pages, key=lambda page: page.date, reverse=True)
  yield from _markdown_table(
    ("date", "page", "tables"),
    [
      (page.date, f"[{page.machine.title}]({page.stem}.md)", "; ".join(one.title for one in page.tables))
      for page in newest
    ],
  )
  if reports:
    yield from ("", "Whole reports of GPUs:", "")
    yield from (f"- [{heading}]({stem}.md)" for stem, heading in reports.items())
  yield from ("", "```{toctree}", ":hidden:", ":maxdepth: 1", "")
  yield from (*(page.stem for page in newest), *reports)
  yield "```"


def _markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
  yield f"| {' | '.join(map(_escaped, columns))} |"
  yield f"|{'---|' * len(columns)}"
  for row in rows:
    yield f"| {' | '.join(map(_escaped, row))} |"


def _escaped(cell: str) -> str:
  return cell.replace("|", "\\|")


def _without_results(words: Sequence[str]) -> list[str]:
  """A command line without the options that say where results are kept."""
  kept, skip = [], False
  for word in words:
    if skip or word.split("=")[0] in ("--results", "--machine"):
      skip = not skip and "=" not in word
    else:
      kept.append(word)
  return kept


def _processor() -> str:
  """The processor's name by the kernel, or by Python where there is no /proc."""
  info = Path("/proc/cpuinfo")
  if info.exists():
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
      if line.startswith("model name"):
        return line.split(":", 1)[1].strip()
  return platform.processor() or platform.machine()


def main(argv: Sequence[str] | None = None) -> int:
  """Renders the pages of a folder; returns the exit code, 1 where `--check` finds a difference."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("folder", type=Path, nargs="?", default=Path(_FOLDER), help="(default: %(default)s)")
  parser.add_argument("--check", action="store_true", help="write nothing; say which pages differ")
  args = parser.parse_args(argv)
  differ = [
    path
    for path, text in rendered(args.folder).items()
    if not path.exists() or path.read_text(encoding="utf-8") != text
  ]
  for path in differ:
    print(f"{path} is not what its JSON file gives" if args.check else f"wrote {path}")
    if not args.check:
      write_text(path, rendered(args.folder)[path])
  return int(args.check and bool(differ))


if __name__ == "__main__":
  sys.exit(main())
