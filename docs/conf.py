"""Configuration of the documentation: `make docs` builds it with warnings as errors."""

import re
from importlib import metadata
from typing import Any

project = "lynx_jax"
copyright = "lynx_jax's authors, Apache-2.0"
release = metadata.version("lynx-jax")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "lynx_jax"
html_static_path: list[str] = []

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]

# Docstrings have single backticks for code, as Markdown has.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

linkcheck_anchors = False
linkcheck_timeout = 20


def plain(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
  """Takes stars, bars and final underscores of docstrings as they are, outside of backticks: sums, norms, names."""
  parts = re.split(r"(`[^`]*`)", "\n".join(lines))
  # Code may begin on one line and end on the next, where reStructuredText would end the paragraph's indentation.
  parts[1::2] = [re.sub(r"\s*\n\s*", " ", part) for part in parts[1::2]]
  parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
  # A letter right behind code, as in a plural, needs an empty separator.
  parts[2::2] = [rf"\ {part}" if re.match(r"\w", part) else part for part in parts[2::2]]
  lines[:] = "".join(parts).split("\n")


def setup(app: Any) -> None:
  """Sphinx calls this."""
  # Before napoleon, which writes stars of its own.
  app.connect("autodoc-process-docstring", plain, priority=400)
