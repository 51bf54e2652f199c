"""Quantised weights in files: formats, one a file, and which of them config.json describes.

A new format is a class of `packed.Format` in a file of its own, and a line in `describing.py`.
"""

from checkpoints_convert.formats.describing import format_of, quantization_settings
from checkpoints_convert.formats.packed import Format, Packed
from checkpoints_convert.formats.tensors import Tensors

__all__ = ["Format", "Packed", "Tensors", "format_of", "quantization_settings"]
