"""What a model family is: the meaning of its config.json, and the tensor names of its checkpoints."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from checkpoints_convert.rules import RuleTable, Shapes
from lynx_jax.models.spec import DecoderSpec

Config: TypeAlias = Mapping[str, Any]


@runtime_checkable
class Rules(Protocol):
  """Makes the rule table of a model's checkpoint."""

  def __call__(self, spec: DecoderSpec, found: Shapes, /) -> RuleTable:
    """The rules for the decoder `spec`.

    `found` has the shapes of the tensors in the checkpoint, by name, for families whose files have several spellings;
    without any tensors, the table is for files that are to be written.
    """
    ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
  """One model family. Its specs carry `name` as `DecoderSpec.family`, by which the rules are found again.

  Attributes:
    name: the family's name, which is also the first `model_type` that it reads.
    spec: the decoder that a config.json describes; raises ValueError, naming the key, where it cannot be run.
    rules: the tensor names of its checkpoints.
    aliases: further `model_type`s whose configurations are read alike.
    text_of: `model_type`s of larger models, such as ones that see, whose `text_config` this family reads.
    config: the config.json that describes a spec, for families that models are written in; the inverse of `spec`.
  """

  name: str
  spec: Callable[[Config], DecoderSpec]
  rules: Rules
  aliases: tuple[str, ...] = ()
  text_of: tuple[str, ...] = ()
  config: Callable[[DecoderSpec], dict[str, Any]] | None = None

  @property
  def model_types(self) -> tuple[str, ...]:
    """Every `model_type` whose config.json the family reads itself."""
    return self.name, *self.aliases
