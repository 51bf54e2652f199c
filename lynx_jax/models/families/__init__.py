"""The model families. Each is one file here: config.json to spec, tensor names, and a `FAMILY` that holds both.

The files are found by looking into this folder, so a new family is a new file and nothing else. `register_family` adds
one from outside the package.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from checkpoints_convert.rules import RuleTable, Shapes
from lynx_jax.models.families.family import Family
from lynx_jax.models.families.gguf_tensor_names import gguf_rules, is_gguf
from lynx_jax.models.spec import DecoderSpec

_FAMILIES: dict[str, Family] = {}

FAMILIES: Mapping[str, Family] = MappingProxyType(_FAMILIES)
"""Every known family by its name, in alphabetical order of the files, then in order of registration."""


def register_family(family: Family) -> Family:
  """Makes `family` known to `load`, `convert` and everything else that reads checkpoints; returns it.

  A family of the same name is replaced, so that a notebook's cell can be run again.

  Raises:
    ValueError: another family reads one of its `model_type`s.
  """
  for other in _FAMILIES.values():
    taken = {*other.model_types, *other.text_of} & {*family.model_types, *family.text_of}
    if taken and other.name != family.name:
      raise ValueError(
        f"family {family.name!r} reads model_type {min(taken)!r}, which family {other.name!r} reads already: "
        "give it another name"
      )
  _FAMILIES[family.name] = family
  return family


def spec_from_config(config: Mapping[str, Any], generation_config: Mapping[str, Any] | None = None) -> DecoderSpec:
  """The decoder that a checkpoint's config.json describes.

  `generation_config` is the parsed generation_config.json, if there is one: its `eos_token_id` comes first.
  Raises ValueError for an unknown `model_type`, a missing key, and a setting that is not supported.
  """
  model_type = config.get("model_type")
  for family in _FAMILIES.values():
    if model_type in family.text_of:
      text = config.get("text_config") or {}
      if not isinstance(text, Mapping):
        raise ValueError(f"config.json of model_type {model_type!r} sets text_config to {text!r}: expected an object")
      config = {"model_type": family.name, **text}
      model_type = config["model_type"]
      break
  stop = None if generation_config is None else generation_config.get("eos_token_id")
  return _reading(model_type).spec(config if stop is None else {**config, "eos_token_id": stop})


def tensor_rules(spec: DecoderSpec, found: Shapes = MappingProxyType({})) -> RuleTable:
  """The rules between the parameters of `spec` and the tensors of a checkpoint, by its family.

  Args:
    spec: the decoder.
    found: shapes of the checkpoint's tensors by name, which tell its spelling. Without any, the spelling of the hub's
      files, which is the one to write. GGUF files have one of their own, whatever the family.
  """
  if is_gguf(found):
    return gguf_rules(spec, found)
  return FAMILIES[spec.family].rules(spec, found)


def _reading(model_type: object) -> Family:
  found = next((family for family in _FAMILIES.values() if model_type in family.model_types), None)
  if found is None:
    known = sorted(name for family in _FAMILIES.values() for name in (*family.model_types, *family.text_of))
    raise ValueError(f"config.json has model_type {model_type!r}; supported: {', '.join(known)}")
  return found


for _, name, _ in pkgutil.iter_modules(__path__):
  found = getattr(importlib.import_module(f"{__name__}.{name}"), "FAMILY", None)
  if found is not None:
    register_family(found)
