"""Result pages: what benchmarks keep, and that the committed pages are what their JSON files give."""

import json
from pathlib import Path

import pytest
from rich.table import Table

from benchmarks import results
from benchmarks.kernels import product_bandwidth

ROOT = Path(__file__).parents[2]
MACHINE = results.Machine(name="box", title="A box", facts={"Cores": "2"})


def _table(name, *rows, columns=("batch", "ms")):
  return results.ResultTable(
    name=name, title=f"Title of {name}", about="About it.", commands=("python -m one",), commit="abc1234",
    columns=columns, rows=rows,
  )  # fmt: skip


def test_a_page_gathers_tables_and_replaces_one_of_the_same_name(tmp_path):
  results.save(tmp_path, MACHINE, _table("a", ("1", "2.0")), "2026-11-30")
  results.save(tmp_path, MACHINE, _table("b", ("1|2", "3.0")), "2026-11-30")
  results.save(tmp_path, MACHINE, _table("a", ("1", "4.0")), "2026-11-30")
  text = (tmp_path / "box-2026-11-30.md").read_text()
  assert text.index("Title of a") < text.index("Title of b")
  assert "| 1 | 4.0 |" in text
  assert "2.0" not in text
  assert "| 1\\|2 | 3.0 |" in text
  assert "Commit abc1234." in text
  assert "[A box](box-2026-11-30.md)" in (tmp_path / "index.md").read_text()
  assert results.main([str(tmp_path), "--check"]) == 0


def test_a_page_edited_by_hand_is_found_and_rendered_again(tmp_path, capsys):
  results.save(tmp_path, MACHINE, _table("a", ("1", "2.0")), "2026-11-30")
  page = tmp_path / "box-2026-11-30.md"
  page.write_text(page.read_text().replace("2.0", "1.0"))
  assert results.main([str(tmp_path), "--check"]) == 1
  assert "box-2026-11-30.md" in capsys.readouterr().out
  assert results.main([str(tmp_path)]) == 0
  assert "| 1 | 2.0 |" in page.read_text()


def test_the_committed_pages_are_what_their_data_give():
  assert results.main([str(ROOT / "docs" / "results"), "--check"]) == 0


def test_a_row_that_does_not_fit_its_columns_is_refused():
  with pytest.raises(ValueError, match="3 cells for 2 columns"):
    _table("a", ("1", "2", "3"))


@pytest.mark.usefixtures("own_errors")
def test_a_machine_needs_a_name_that_a_file_can_have():
  with pytest.raises(ValueError, match="small letters"):
    results.Machine(name="My box", title="", facts={})


def test_a_benchmark_keeps_its_table_with_its_command(tmp_path, monkeypatch):
  speed = product_bandwidth.ProductBandwidth(rows=1, cached=2e9, from_memory=1e9, read=2e9)
  monkeypatch.setattr(product_bandwidth, "product_bandwidths", lambda rows, **sizes: [speed])
  assert product_bandwidth.main(["--rows", "1", "--results", str(tmp_path), "--machine", "box"]) == 0
  (path,) = tmp_path.glob("*.json")
  (table,) = json.loads(path.read_text())["tables"]
  assert table["commands"] == ["python -m benchmarks.kernels.product_bandwidth --rows 1"]
  assert table["rows"] == [["1", "2.0", "1.0", "2.0", "50%"]]


def test_a_rich_table_becomes_rows():
  table = Table(title="T")
  table.add_column("a")
  table.add_column("b")
  table.add_row("1", "2")
  table.add_row("3", "4")
  kept = results.result_table(table, "t", "About.", ["c"])
  assert (kept.title, kept.columns, kept.rows) == ("T", ("a", "b"), (("1", "2"), ("3", "4")))
