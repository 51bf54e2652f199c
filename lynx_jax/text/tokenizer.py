"""A checkpoint's tokenizer and chat template: immutable, and equal by content."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from checkpoints_convert.files import read_json, read_text
from lynx_jax.text.gguf_tokenizer import has_tokenizer, tokenizer_config, tokenizer_json
from pallas_kernels.checks import refusal

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
# Byte-level BPE writes bytes as characters: printable ones as themselves, the others from U+0100 on, as GPT-2 has it.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(0x100 + at): byte for at, byte in enumerate(_OTHERS)}
# tiktoken's, Mistral's, and byte-level BPE before tokenizer.json.
_OTHER_FORMS = ("*.tiktoken", "tekken.json", "vocab.json")

_BESIDE = ("special_tokens_map.json", "chat_template.jinja")


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Tokenizer:
  """Text to token ids and back, as transformers does it for the same directory.

  Attributes:
    fingerprint: SHA-256, in hex, of all that decides the results; tokenizers of one fingerprint are equal.
    chat_template: Jinja source, or None.
    open_ids: ids of the tokens after which the text before may still change. SentencePiece's byte tokens are decoded
      in runs, and special tokens, which text leaves out, do not end a run. Empty for other tokenizers.
  """

  fingerprint: str
  chat_template: str | None = dataclasses.field(compare=False)
  open_ids: frozenset[int] = dataclasses.field(compare=False)
  _named_tokens: tuple[tuple[str, str], ...] = dataclasses.field(compare=False)
  _backend: tokenizers.Tokenizer = dataclasses.field(compare=False)

  @classmethod
  def from_directory(cls, path: Path) -> "Tokenizer | None":
    """The tokenizer of a checkpoint directory, None if it has none; ValueError for a damaged file.

    Without tokenizer.json, a SentencePiece tokenizer.model is converted by transformers (extra `tokenizers`).
    """
    source = path / "tokenizer.json"
    text = read_text(source) if source.is_file() else _converted(path)
    if text is None:
      return None
    config = _read_config(path)
    return cls._of(text, config, _read_template(path, config), source)

  @classmethod
  def from_gguf(cls, metadata: Mapping[str, Any], file: Path) -> "Tokenizer | None":
    """The tokenizer beside a GGUF file, or else the one in it, given its metadata; None if there is none.

    Raises ValueError, naming the file, where it is of a kind that is not known.
    """
    if (file.parent / "tokenizer.json").is_file():
      return cls.from_directory(file.parent)
    if not has_tokenizer(metadata):
      return None
    config = tokenizer_config(metadata)
    return cls._of(tokenizer_json(metadata, file), config, config.get("chat_template"), file)

  @classmethod
  def _of(cls, text: str, config: Mapping[str, Any], template: str | None, source: Path) -> "Tokenizer":
    """The tokenizer of a tokenizer.json's text, a tokenizer_config.json and a chat template."""
    path = source.parent
    named = {name: _content(config[name], path, name) for name in _NAMED_TOKENS if config.get(name) is not None}
    try:
      backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
      raise ValueError(f"{source} is not a tokenizer ({error}): download it again") from error
    _prepare(backend, config, named, path)
    saved = backend.to_str()
    decisive = json.dumps([text, saved, named, template])
    return cls(
      fingerprint=hashlib.sha256(decisive.encode()).hexdigest(),
      chat_template=template,
      open_ids=_open_ids(backend, saved),
      _named_tokens=tuple(named.items()),
      _backend=backend,
    )

  def __repr__(self) -> str:
    return f"Tokenizer(vocab_size={self.vocab_size}, fingerprint={self.fingerprint[:12]!r})"

  @property
  def vocab_size(self) -> int:
    """Entries of the vocabulary, added tokens included; a model's may be larger."""
    return self._backend.get_vocab_size(with_added_tokens=True)

  @property
  def named_tokens(self) -> dict[str, str]:
    """The special tokens that have a name, such as `eos_token`."""
    return dict(self._named_tokens)

  @property
  def bos_token(self) -> str | None:
    """The token that begins a text, or None."""
    return self.named_tokens.get("bos_token")

  @property
  def bos_id(self) -> int | None:
    """Id of `bos_token`, or None."""
    return self._id(self.bos_token)

  @property
  def eos_token(self) -> str | None:
    """The token that ends a text, or None."""
    return self.named_tokens.get("eos_token")

  @property
  def eos_id(self) -> int | None:
    """Id of `eos_token`, or None."""
    return self._id(self.eos_token)

  def _id(self, token: str | None) -> int | None:
    return None if token is None else self.token_id(token)

  def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """Token ids of `text`, with the beginning-of-text token where the tokenizer itself adds it.

    Give `add_special_tokens=False` for the result of `apply_chat`, which has its special tokens already. Raises
    ValueError for text with a lone surrogate, which no tokenizer can read.
    """
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise ValueError(
        f"character {error.start} of the text is {text[error.start]!r}, which is not valid Unicode: decode the text "
        f"from its own encoding first"
      ) from error
    return self._backend.encode(text, add_special_tokens=add_special_tokens).ids

  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids`, special tokens left out; bytes that are no UTF-8 become U+FFFD."""
    return self._backend.decode([int(token) for token in ids], skip_special_tokens=True)

  def showing(self, special: frozenset[int]) -> "ShowingTokenizer":
    """A decoder whose text shows these special tokens by their names, and leaves out all others."""
    hidden = self.special_ids - special
    return ShowingTokenizer(self.open_ids, self._backend, hidden, self._text_bytes(hidden))

  @functools.cached_property
  def text_bytes(self) -> Mapping[int, bytes] | None:
    """The bytes that each token adds to what `decode` gives; None if they depend on other tokens.

    They are the token's own where the decoder is byte-level BPE's and nothing else. A subclass that decodes in its own
    way has none.
    """
    return self._text_bytes(self.special_ids) if type(self).decode is Tokenizer.decode else None

  def _text_bytes(self, hidden: frozenset[int]) -> "_TextBytes | None":
    return _TextBytes(self._backend, hidden) if self._decoder_kind == "ByteLevel" else None

  @functools.cached_property
  def special_ids(self) -> frozenset[int]:
    """Ids of the tokens that text leaves out."""
    added = self._backend.get_added_tokens_decoder()
    return frozenset(token for token, entry in added.items() if entry.special)

  def to_json(self) -> str:
    """The tokenizer in the form of tokenizer.json, with what tokenizer_config.json adds to it."""
    return self._backend.to_str()

  def token_id(self, form: str) -> int | None:
    """Id of the token of that name, or None."""
    return self._backend.token_to_id(form)

  def token_bytes(self, token: int) -> bytes:
    """The bytes that a token adds to a text; special tokens give those of their names, unknown ones none."""
    form = self._backend.id_to_token(token)
    if form is None:
      return b""
    if token in self._added_ids:
      return form.encode()
    if self._decoder_knows("ByteLevel"):
      return bytes(_BYTE_OF[character] for character in form if character in _BYTE_OF)
    if self._decoder_knows("ByteFallback") and _BYTE_TOKEN.fullmatch(form):
      return bytes([int(form[3:5], 16)])
    return form.replace("\u2581", " ").encode()

  @functools.cached_property
  def _added_ids(self) -> frozenset[int]:
    return frozenset(self._backend.get_added_tokens_decoder())

  def _decoder_knows(self, kind: str) -> bool:
    """Whether the tokenizer's decoder has a part of that kind."""
    return kind in self._decoder_state

  @functools.cached_property
  def _decoder_state(self) -> str:
    decoder = self._backend.decoder
    return "" if decoder is None else decoder.__getstate__().decode()

  @functools.cached_property
  def _decoder_kind(self) -> str:
    return json.loads(self._decoder_state)["type"] if self._decoder_state else ""

  def apply_chat(
    self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
  ) -> str:
    """The prompt for a conversation of `{"role": ..., "content": ...}` messages, by the chat template.

    `variables` are what the template knows besides, such as `tools` or `enable_thinking`. Raises ValueError
    where there is no template, no message, or the template refuses the messages.
    """
    if self.chat_template is None:
      raise ValueError(
        "this tokenizer has no chat template (neither chat_template.jinja nor a chat_template in "
        "tokenizer_config.json): use a chat checkpoint, or write the prompt as plain text"
      )
    if not messages:
      raise ValueError("messages is empty: give at least one message")
    from lynx_jax.text.template import render

    # A missing key is what templates expect of clients that send `null`.
    given = [{key: value for key, value in message.items() if value is not None} for message in messages]
    known = {"tools": None, "documents": None, **self.named_tokens, **variables}
    return render(self.chat_template, given, {"add_generation_prompt": add_generation_prompt, **known})


@dataclasses.dataclass(frozen=True)
class ShowingTokenizer:
  """A decoder of a tokenizer's tokens that leaves out `hidden_ids` alone; other fields as those of `Tokenizer`."""

  open_ids: frozenset[int]
  _backend: tokenizers.Tokenizer
  hidden_ids: frozenset[int]
  text_bytes: Mapping[int, bytes] | None = dataclasses.field(compare=False)

  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
    shown = [int(token) for token in ids if int(token) not in self.hidden_ids]
    return self._backend.decode(shown, skip_special_tokens=False)


class _TextBytes(dict[int, bytes]):
  """The bytes of byte-level BPE's tokens, each looked up once; hidden tokens and ids of no token have none."""

  def __init__(self, backend: tokenizers.Tokenizer, hidden: frozenset[int]):
    super().__init__()
    self._form_of, self._hidden = backend.id_to_token, hidden

  def __missing__(self, token: int) -> bytes:
    form = "" if token in self._hidden else self._form_of(token) or ""
    # An added token may hold characters that stand for no byte: then all of it is text.
    whole = all(character in _BYTE_OF for character in form)
    found = bytes(_BYTE_OF[character] for character in form) if whole else form.encode()
    self[token] = found
    return found


def tokenizer_files(metadata: Mapping[str, Any], file: Path) -> dict[str, str]:
  """The files, by name, of the tokenizer that `Tokenizer.from_gguf` reads."""
  if (file.parent / "tokenizer.json").is_file():
    present = (file.parent / name for name in ("tokenizer.json", "tokenizer_config.json", *_BESIDE))
    return {path.name: read_text(path) for path in present if path.is_file()}
  if not has_tokenizer(metadata):
    return {}
  config = json.dumps(tokenizer_config(metadata), indent=2, ensure_ascii=False) + "\n"
  return {"tokenizer.json": tokenizer_json(metadata, file), "tokenizer_config.json": config}


def _open_ids(backend: tokenizers.Tokenizer, saved: str) -> frozenset[int]:
  """`Tokenizer.open_ids` of a backend; `saved` is the backend as JSON."""
  if "ByteFallback" not in json.dumps(json.loads(saved)["decoder"]):
    return frozenset()
  special = (token for token, added in backend.get_added_tokens_decoder().items() if added.special)
  single = (backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
  return frozenset({*special, *single} - {None})


def _converted(path: Path) -> str | None:
  """What tokenizer.json would say, of a tokenizer in another form; None where there is none, ValueError where it fails.

  transformers' generic class keeps SentencePiece's order of merges; those of models rank a run of spaces differently.
  """
  remedy = (
    "write tokenizer.json elsewhere, with transformers: AutoTokenizer.from_pretrained(SRC).save_pretrained(DST); or "
    "take the file away, to give token ids only"
  )
  if not (path / "tokenizer.model").is_file():
    other = next((file.name for form in _OTHER_FORMS for file in sorted(path.glob(form))), None)
    if other is not None:
      raise ValueError(f"{path} has {other} and no tokenizer.json: not supported; {remedy}")
    return None
  try:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(path).backend_tokenizer.to_str()
  except Exception as error:  # transformers raises many kinds, for a damaged file and for a package that it misses
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise ValueError(
      f"{path} has tokenizer.model and no tokenizer.json, and it cannot be converted here ({reason}): pip install "
      f"'lynx-jax[tokenizers]', or {remedy}"
    ) from error


def _read_config(path: Path) -> dict[str, Any]:
  """tokenizer_config.json, completed by the special_tokens_map.json of older checkpoints."""
  config = _read_object(path / "tokenizer_config.json")
  if "added_tokens_decoder" not in config:
    config |= _read_object(path / "special_tokens_map.json")
  return config


def _read_object(path: Path) -> dict[str, Any]:
  return read_json(path) if path.is_file() else {}


def _broken(path: Path, field: str, value: object, expected: str) -> ValueError:
  """The error that names a field of the tokenizer's configuration."""
  return refusal(f"{path / 'tokenizer_config.json'}: {field}", value, expected, "download it again")


def _content(token: Any, path: Path, field: str) -> str:
  """The text of a token, which is text or an object with its text as `content`."""
  text = token.get("content") if isinstance(token, Mapping) else token
  if not isinstance(text, str):
    raise _broken(path, field, token, "a token, as text or as an object with content")
  return text


def _read_template(path: Path, config: Mapping[str, Any]) -> str | None:
  file = path / "chat_template.jinja"
  if file.is_file():
    return read_text(file)
  template = config.get("chat_template")
  if isinstance(template, list):
    named = [entry for entry in template if isinstance(entry, Mapping) and entry.get("name") == "default"]
    template = named[0].get("template") if named else None
  if not isinstance(template, str | None):
    raise _broken(path, "chat_template", template, "Jinja source, or a list of templates with name and template")
  return template


def _prepare(backend: tokenizers.Tokenizer, config: Mapping[str, Any], named: Mapping[str, str], path: Path) -> None:
  """Applies what tokenizer_config.json adds to tokenizer.json, as transformers does at load.

  Its `add_bos_token` is not among that: the post-processor of tokenizer.json says already how a text begins.
  """
  backend.no_truncation()
  backend.no_padding()
  backend.encode_special_tokens = bool(config.get("split_special_tokens", False))
  present = {token.content for token in backend.get_added_tokens_decoder().values()}
  for token in _configured_tokens(config, named, path):
    if token.content not in present:
      present.add(token.content)
      backend.add_tokens([token])


def _configured_tokens(
  config: Mapping[str, Any], named: Mapping[str, str], path: Path
) -> Iterator[tokenizers.AddedToken]:
  field, listed = "added_tokens_decoder", config.get("added_tokens_decoder") or {}
  if not isinstance(listed, Mapping) or not all(index.isdecimal() for index in listed):
    raise _broken(path, field, listed, "an object whose keys are token ids")
  for index in sorted(listed, key=int):
    entry = listed[index]
    _content(entry, path, f"{field}.{index}")
    options = dict(entry) if isinstance(entry, Mapping) else {"content": entry}
    special = options.pop("special", False) or options["content"] in named.values()
    try:
      yield tokenizers.AddedToken(**options, special=special)
    except TypeError as error:
      raise _broken(path, f"{field}.{index}", entry, f"an added token ({error})") from error
  extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
  for token in [*named.values(), *(extra.values() if isinstance(extra, dict) else extra)]:
    yield tokenizers.AddedToken(_content(token, path, "extra_special_tokens"), special=True)
