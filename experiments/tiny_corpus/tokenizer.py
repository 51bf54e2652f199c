"""A byte-level BPE that writes each digit as a token of its own."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

STOP, USER, ASSISTANT, END = "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"
# The index in this tuple is the token's id.
SPECIAL = (STOP, USER, ASSISTANT, END)
VOCAB = 4096
SMALLEST_VOCAB = 256 + len(SPECIAL)
CONTEXT = 512

CHAT_TEMPLATE = (
  "{% for message in messages %}"
  "{{ '<|user|>' if message['role'] != 'assistant' else '<|assistant|>' }}{{ message['content'] }}<|end|>"
  "{% endfor %}"
  "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab: int = VOCAB) -> Tokenizer:
  """Learns up to `vocab` entries; every byte is one of them, so that any text survives the round trip."""
  tokenizer = Tokenizer(models.BPE())
  # Sums are learnt digit by digit; a token for "17" would have to be learnt number by number.
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
  )
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab,
    special_tokens=list(SPECIAL),
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
  """Writes `tokenizer.json` and `tokenizer_config.json`, as `transformers.AutoTokenizer` loads them."""
  tokenizer.save(str(folder / "tokenizer.json"))
  config = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": STOP,
    "pad_token": STOP,
    "additional_special_tokens": [USER, ASSISTANT, END],
    "clean_up_tokenization_spaces": False,
    "model_max_length": CONTEXT,
    "chat_template": CHAT_TEMPLATE,
  }
  (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[UInt16[np.ndarray, " n"]]:
  """The token identifiers of each text, without a separator."""
  return [np.array(found.ids, np.uint16) for found in tokenizer.encode_batch_fast(list(texts))]
