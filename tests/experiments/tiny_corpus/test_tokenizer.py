"""The tokenizer that is trained on the corpus."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from experiments.tiny_corpus import tokenizer
from experiments.tiny_corpus.documents import chat, task_documents


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
