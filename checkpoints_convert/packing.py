"""In which format quantised parameters are written under the hub's names, and what has to be plain numbers there."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from checkpoints_convert.formats import Format
from checkpoints_convert.formats.compressed_tensors import CompressedTensors
from checkpoints_convert.formats.compressed_writing import describe
from checkpoints_convert.formats.mxfp4 import MXFP4
from checkpoints_convert.packed_rules import Piece, nbytes, packed_targets
from checkpoints_convert.parameters import Parameters
from checkpoints_convert.rules import Rule, RuleTable, names, only_rules

_MXFP4_SETTINGS = {
  "quant_method": "mxfp4",
  "modules_to_not_convert": [
    "model.layers.*.self_attn",
    "model.layers.*.mlp.router",
    "model.embed_tokens",
    "lm_head",
  ],
}
"""As gpt-oss's files have them; only its experts are tensors of the kind that this format holds."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
  """How the quantised parameters of a model are written.

  Attributes:
    format: of the files that hold them.
    pieces: the tensors that are written in it, by rule and by name, as shapes and dtypes.
    plain: the tensors that are plain numbers there though what they are made of is quantised, each with the reason.
    settings: `quantization_config`; None where the source's goes on to be true.
  """

  format: Format
  pieces: Mapping[Rule, Mapping[str, Piece]]
  plain: Mapping[str, str]
  settings: Mapping[str, Any] | None


def packing_of(
  table: RuleTable, parameters: Parameters, native: Format | None, *, looked_up: Collection[str] = ()
) -> Packing | None:
  """The packing of `parameters` in the format that holds most of their bytes; None where it would hold nothing.

  Args:
    table: the rules between the parameters and the tensors to write.
    parameters: of a model.
    native: the format of the source's settings, if all that is quantised there still is; it comes first, but only where
      it holds everything.
    looked_up: the parameters whose rows are looked up, such as embeddings: no format has them quantised.
  """
  found, plain = _pieces(table, parameters, looked_up)
  if not found:
    return None
  if native is not None and not plain and _usable(native) and not _objections(native, found):
    return Packing(format=native, pieces=found, plain={}, settings=None)
  layers = CompressedTensors(())
  chosen = max((layers, MXFP4()), key=lambda form: _held(form, found))
  refused = _objections(chosen, found)
  pieces = {rule: tensors for rule, tensors in found.items() if refused.keys().isdisjoint(tensors)}
  plain |= {
    name: refused.get(name, "another tensor of the same parameters cannot be packed")
    for rule, tensors in found.items()
    if rule not in pieces
    for name in tensors
  }
  if not pieces:
    return Packing(format=chosen, pieces={}, plain=plain, settings={})
  if chosen is not layers:
    return Packing(format=chosen, pieces=pieces, plain=plain, settings=_MXFP4_SETTINGS)
  schemes = {name: layers.scheme(piece.weight) for tensors in pieces.values() for name, piece in tensors.items()}
  matrices = [
    name
    for rule in only_rules(table)
    for name, shape in rule.source_shapes(parameters.shapes).items()
    if len(shape) > 1 and name.endswith(".weight") and name not in schemes
  ]
  return Packing(format=chosen, pieces=pieces, plain=plain, settings=describe(schemes, matrices))


def _usable(native: Format) -> bool:
  """Whether a weight's form is enough to write it as the source's settings say."""
  return not isinstance(native, CompressedTensors) or native.distinct


def _pieces(
  table: RuleTable, parameters: Parameters, looked_up: Collection[str]
) -> tuple[dict[Rule, dict[str, Piece]], dict[str, str]]:
  """The tensors that rules can carry quantised, by rule, and those that they cannot, with the reason."""
  found: dict[Rule, dict[str, Piece]] = {}
  plain: dict[str, str] = {}
  for rule in only_rules(table):
    made_of = [*names(rule.target)]
    held = {path: Piece(parameters.held[path]) for path in made_of if path in parameters.held}
    if not held:
      continue
    tensors = [*names(rule.source)]
    carried = packed_targets(rule.inverse, rule.source_shapes(parameters.shapes), held)
    if not {*made_of}.isdisjoint(looked_up):
      plain |= dict.fromkeys(tensors, "rows of it are looked up, which formats have in plain numbers")
    elif carried.keys() != {*tensors}:
      plain |= dict.fromkeys(tensors, "what it is made of is quantised in several ways, or across its inputs")
    else:
      found[rule] = carried
  return found, plain


def _objections(form: Format, found: Mapping[Rule, Mapping[str, Piece]]) -> dict[str, str]:
  every = ((name, form.objection(name, piece)) for tensors in found.values() for name, piece in tensors.items())
  return {name: why for name, why in every if why is not None}


def _held(form: Format, found: Mapping[Rule, Mapping[str, Piece]]) -> int:
  """Bytes of the tensors that the format holds."""
  refused = _objections(form, found)
  return sum(
    nbytes(piece.weight) for tensors in found.values() for name, piece in tensors.items() if name not in refused
  )


def aloud(reasons: Mapping[str, str], done: str) -> Iterator[str]:
  """One line for each reason, with the number of tensors, the first one's name, and what is done with them."""
  by_reason: dict[str, list[str]] = {}
  for name, why in reasons.items():
    by_reason.setdefault(why, []).append(name)
  for why, tensors in by_reason.items():
    several = f"{tensors[0]} is" if len(tensors) == 1 else f"{len(tensors)} tensors, such as {tensors[0]}, are"
    yield f"{several} {done}: {why}"
