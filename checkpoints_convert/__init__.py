"""Reads and writes checkpoint files: tensors of a file to parameters of a model by rules, and back.

This package knows files and rules. Which model a directory holds, and how its tensors are named, is told to it as a
`Schema`.
"""

from checkpoints_convert.checkpoint import Checkpoint, Schema, open_checkpoint
from checkpoints_convert.conversion import convert
from checkpoints_convert.errors import CheckpointError

__all__ = ["Checkpoint", "CheckpointError", "Schema", "convert", "open_checkpoint"]
