# ruff: noqa: RUF001 (expressions name letters of all kinds)
"""The tokenizer that a GGUF file holds as lists of tokens, merges and scores, as a tokenizer.json.

llama.cpp splits text in its own code and keeps only the name of the way, `tokenizer.ggml.pre`. Here each name stands
for what the tokenizer.json of its models has: a normaliser and expressions. References: llama.cpp's
`src/llama-vocab.cpp` and `conversion/base.py`, and the tokenizer.json of the models that its names stand for.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from pallas_kernels.checks import shown

# `tokenizer.ggml.token_type`.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_NAMED = {
  "bos_token": "tokenizer.ggml.bos_token_id",
  "eos_token": "tokenizer.ggml.eos_token_id",
  "unk_token": "tokenizer.ggml.unknown_token_id",
  "pad_token": "tokenizer.ggml.padding_token_id",
}
_SPACE = "▁"

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LOWER, _UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_EITHER_CASE = r"[^\r\n\p{L}\p{N}]?"
_DEEPSEEK_LETTERS = (
  "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐ"
  "ῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
  """How text is split before bytes are merged.

  Attributes:
    expressions: what each splits off, one after the other; digits alone are `digits`.
    digits: whether every digit stands alone.
    gpt2: whether GPT-2's expression comes last.
    composed: whether characters are composed first (NFC).
    whole_words: whether a word that is a token is taken without merging.
    begins: whether a text begins with the beginning-of-text token where the file does not say.
  """

  expressions: tuple[str, ...] = ()
  digits: bool = False
  gpt2: bool = False
  composed: bool = False
  whole_words: bool = False
  begins: bool = False


_GPT2 = Splitting(gpt2=True)
_DIGITS = Splitting(digits=True, gpt2=True)
_LLAMA3 = Splitting(expressions=(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}",), whole_words=True, begins=True)
_QWEN2 = Splitting(expressions=(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}",), composed=True)
_GPT4O = Splitting(
  expressions=(
    rf"{_EITHER_CASE}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_EITHER_CASE}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
  )
)
_DEEPSEEK_3 = Splitting(
  expressions=(
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
  )
)
_DEEPSEEK = Splitting(
  expressions=("[\r\n]", rf"\s?[{_DEEPSEEK_LETTERS}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+"),
  digits=True,
)
_DBRX = dataclasses.replace(_LLAMA3, whole_words=False, begins=False)

SPLITTINGS: Mapping[str, Splitting] = MappingProxyType(
  {
    "dbrx": _DBRX,
    "deepseek-llm": _DEEPSEEK,
    "deepseek-v3": _DEEPSEEK_3,
    "default": _GPT2,
    "gpt-2": _GPT2,
    "gpt-4o": _GPT4O,
    "llama-bpe": _LLAMA3,
    "llama4": _GPT4O,
    "olmo": dataclasses.replace(_GPT2, composed=True),
    "qwen2": _QWEN2,
    "refact": _DIGITS,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
  }
)
"""The ways of splitting that are known, by `tokenizer.ggml.pre`."""


def has_tokenizer(metadata: Mapping[str, Any]) -> bool:
  """Whether the file holds a tokenizer."""
  return metadata.get("tokenizer.ggml.model", "none") not in ("none", "no_vocab")


def tokenizer_json(metadata: Mapping[str, Any], where: Path) -> str:
  """The tokenizer of a file's metadata, as the text of a tokenizer.json.

  Raises ValueError, naming the file and what to do, for a kind of tokenizer or a way of splitting that is not known,
  and for lists that do not fit each other.
  """
  kind = metadata.get("tokenizer.ggml.model")
  vocabulary = _Vocabulary.of(metadata, where)
  match kind:
    case "gpt2":
      backend = _byte_level(vocabulary, metadata, where)
    case "llama":
      backend = _sentencepiece(vocabulary, metadata)
    case _:
      raise _unknown(where, "tokenizer.ggml.model", kind, ("gpt2", "llama"))
  for special, kinds in ((True, (_CONTROL, _UNKNOWN)), (False, (_USER_DEFINED,))):
    added = [AddedToken(token, normalized=False, special=special) for _, token in vocabulary.of_kinds(*kinds)]
    backend.add_tokens(added)
  return backend.to_str()


def tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
  """What a tokenizer_config.json says beside tokenizer.json: named tokens and the chat template."""
  tokens = metadata.get("tokenizer.ggml.tokens", ())
  config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
  for name, key in _NAMED.items():
    index = metadata.get(key)
    if isinstance(index, int) and 0 <= index < len(tokens):
      config[name] = tokens[index]
  template = metadata.get("tokenizer.chat_template")
  return {**config, "chat_template": template} if isinstance(template, str) else config


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Vocabulary:
  """Tokens with their kinds and scores, by id."""

  tokens: Sequence[str]
  kinds: Sequence[int]
  scores: Sequence[float]

  @classmethod
  def of(cls, metadata: Mapping[str, Any], where: Path) -> "_Vocabulary":
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
      raise ValueError(f"{where}: tokenizer.ggml.tokens is {shown(tokens)}: expected a list of tokens; {_REMEDY}")
    found: list[Any] = [
      [fill] * len(tokens) if metadata.get(key) is None else np.asarray(metadata[key]).tolist()
      for key, fill in (("tokenizer.ggml.token_type", _NORMAL), ("tokenizer.ggml.scores", 0.0))
    ]
    kinds, scores = found
    if not len(tokens) == len(kinds) == len(scores):
      raise ValueError(
        f"{where} has {len(tokens)} tokens, {len(kinds)} tokenizer.ggml.token_type and {len(scores)} "
        f"tokenizer.ggml.scores: expected one for each token; {_REMEDY}"
      )
    return cls(tokens=tokens, kinds=kinds, scores=scores)

  def of_kinds(self, *kinds: int) -> Iterator[tuple[int, str]]:
    """The ids and tokens of some kinds."""
    return ((index, self.tokens[index]) for index, kind in enumerate(self.kinds) if kind in kinds)

  @property
  def used(self) -> dict[str, int]:
    """Ids by token, without what only fills the model's table up."""
    return {token: index for index, token in enumerate(self.tokens) if self.kinds[index] != _UNUSED}

  def first(self, *kinds: int) -> str | None:
    """The first token of some kinds."""
    return next((token for _, token in self.of_kinds(*kinds)), None)


def _byte_level(vocabulary: _Vocabulary, metadata: Mapping[str, Any], where: Path) -> tokenizers.Tokenizer:
  name = metadata.get("tokenizer.ggml.pre", "default")
  if name not in SPLITTINGS:
    raise _unknown(where, "tokenizer.ggml.pre", name, SPLITTINGS)
  how = SPLITTINGS[name]
  merges = [tuple(merge.split(" ", 1)) for merge in metadata.get("tokenizer.ggml.merges", ())]
  try:
    model = models.BPE(vocabulary.used, merges, ignore_merges=how.whole_words)  # pyright: ignore[reportArgumentType]
  except Exception as error:  # the library raises bare Exception
    raise ValueError(f"{where}: tokenizer.ggml.merges do not fit the tokens ({error}); {_REMEDY}") from error
  backend = tokenizers.Tokenizer(model)
  if how.composed:
    backend.normalizer = normalizers.NFC()
  splits: list[Any] = [pre_tokenizers.Split(Regex(one), "isolated") for one in how.expressions]
  splits += [pre_tokenizers.Digits(individual_digits=True)] if how.digits else []
  splits.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=how.gpt2))
  backend.pre_tokenizer = pre_tokenizers.Sequence(splits)
  backend.decoder = decoders.ByteLevel()
  frame = _frame(vocabulary, metadata, begins=how.begins)
  backend.post_processor = processors.ByteLevel(trim_offsets=False) if frame is None else frame
  return backend


def _sentencepiece(vocabulary: _Vocabulary, metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
  backend = tokenizers.Tokenizer(
    models.BPE(
      vocabulary.used, _merges(vocabulary), unk_token=vocabulary.first(_UNKNOWN), fuse_unk=True, byte_fallback=True
    )
  )
  prefixed = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
  spaces = normalizers.Replace(" ", _SPACE)
  backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefixed else spaces
  strip = [decoders.Strip(" ", 1, 0)] if prefixed else []
  backend.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
  frame = _frame(vocabulary, metadata, begins=True)
  if frame is not None:
    backend.post_processor = frame
  return backend


def _merges(vocabulary: _Vocabulary) -> list[tuple[str, str]]:
  """The pairs that make up each token, those of the best score first, as SentencePiece merges them."""
  ids = {token: index for index, token in vocabulary.of_kinds(_NORMAL, _USER_DEFINED)}
  pairs = [
    (-vocabulary.scores[index], len(token[:cut]), token[:cut], token[cut:])
    for token, index in ids.items()
    for cut in range(1, len(token))
    if token[:cut] in ids and token[cut:] in ids
  ]
  return [(left, right) for _, _, left, right in sorted(pairs)]


def _frame(
  vocabulary: _Vocabulary, metadata: Mapping[str, Any], *, begins: bool
) -> processors.TemplateProcessing | None:
  """What stands before and after a text, None for nothing."""
  bos, eos = (
    _token(vocabulary, metadata, name) if metadata.get(f"tokenizer.ggml.add_{name}_token", default) else None
    for name, default in (("bos", begins), ("eos", False))
  )
  if bos is None and eos is None:
    return None
  ends = [None if end is None else end[0] for end in (bos, eos)]
  single = " ".join(part for part in (ends[0], "$A", ends[1]) if part is not None)
  pair = " ".join(f"{part}:1" for part in (ends[0], "$B", ends[1]) if part is not None)
  special = [end for end in dict.fromkeys((bos, eos)) if end is not None]
  return processors.TemplateProcessing(single=single, pair=f"{single} {pair}", special_tokens=special)


def _token(vocabulary: _Vocabulary, metadata: Mapping[str, Any], name: str) -> tuple[str, int] | None:
  index = metadata.get(f"tokenizer.ggml.{name}_token_id")
  if not isinstance(index, int) or not 0 <= index < len(vocabulary.tokens):
    return None
  return vocabulary.tokens[index], index


_REMEDY = "put the model's tokenizer.json and tokenizer_config.json beside the file"


def _unknown(where: Path, key: str, value: object, known: Sequence[str] | Mapping[str, Any]) -> ValueError:
  return ValueError(f"{where}: {key} is {shown(value)}: not supported; supported: {', '.join(known)}; or {_REMEDY}")
