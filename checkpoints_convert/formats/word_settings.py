"""Which words a checkpoint of GPTQ, AWQ or AutoRound holds, from its settings."""

import re
from collections.abc import Mapping
from typing import Any

from checkpoints_convert.formats.awq import AWQ
from checkpoints_convert.formats.gptq import BITS, GPTQ, Words
from checkpoints_convert.formats.packed import Format
from checkpoints_convert.formats.settings import Settings, unsupported


def gptq(settings: Settings, where: object) -> Format:
  """GPTQ; `dynamic` has patterns of layers that differ, and `-:` begins those that are left as they are."""
  default = _words(settings, where)
  kind = settings.get("checkpoint_format") or settings.get("format") or "gptq"
  if kind not in ("gptq", "gptq_v2"):
    raise unsupported(where, "checkpoint_format", kind, "gptq or gptq_v2")
  rules = _object(settings, "dynamic", where)
  found = {pattern: None if pattern.startswith("-:") else more for pattern, more in rules.items()}
  words = {pattern: _overridden(settings, more, where) for pattern, more in found.items()}

  def words_of(layer: str) -> Words | None:
    matched = (pattern for pattern in words if re.match(pattern.removeprefix("-:").removeprefix("+:"), layer))
    return next((words[pattern] for pattern in matched), default)

  return GPTQ("gptq", words_of, less_one=kind == "gptq", ordered=bool(settings.get("desc_act")))


def awq(settings: Settings, where: object) -> Format:
  """AWQ in the form `gemm`."""
  version, words = str(settings.get("version", "gemm")).lower(), _words(settings, where, (4,))
  if version != "gemm":
    raise unsupported(where, "version", settings["version"], "gemm")
  return AWQ("awq", words.group)


def auto_round(settings: Settings, where: object) -> Format:
  """AutoRound writes one of the layouts of others; `extra_config` has the layers that differ."""
  packing = settings.get("packing_format")
  if packing == "auto_round:auto_awq":
    return AWQ("auto-round", _words(settings, where, (4,)).group)
  if packing != "auto_round:auto_gptq":
    raise unsupported(where, "packing_format", packing, "auto_round:auto_gptq, auto_round:auto_awq")
  default, rules = _words(settings, where), _object(settings, "extra_config", where)
  words = {layer: _overridden(settings, _unless_float(more), where) for layer, more in rules.items()}
  return GPTQ("auto-round", lambda layer: words.get(layer, default), less_one=True, ordered=False)


def _unless_float(settings: Any) -> Any:
  return None if isinstance(settings, Mapping) and settings.get("bits", 4) >= 16 else settings


def _object(settings: Settings, key: str, where: object) -> Mapping[str, Any]:
  found = settings.get(key) or {}
  if not isinstance(found, Mapping):
    raise unsupported(where, key, found, "an object")
  return found


def _overridden(settings: Settings, more: Any, where: object) -> Words | None:
  """How a layer with settings of its own is quantised; None where it is not."""
  if more is None:
    return None
  if not isinstance(more, Mapping):
    raise unsupported(where, "dynamic", more, "an object for each pattern")
  return _words({**settings, **more}, where)


def _words(settings: Settings, where: object, supported: tuple[int, ...] = BITS) -> Words:
  bits, group = settings.get("bits", settings.get("w_bit")), settings.get("group_size", settings.get("q_group_size"))
  if bits not in supported:
    raise unsupported(where, "bits", bits, " or ".join(map(str, supported)))
  if group not in (None, -1) and (not isinstance(group, int) or group < 1):
    raise unsupported(where, "group_size", group, "a number of inputs, or -1 for all")
  return Words(bits=bits, group=None if group in (None, -1) else group, symmetric=settings.get("sym") is True)
