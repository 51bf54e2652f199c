"""Weights from elsewhere: reads checkpoints of every family, and converts directories there and back."""

from checkpoints_convert.conversion import convert
from checkpoints_convert.errors import CheckpointError

__all__ = ["CheckpointError", "convert"]
