"""Reading the compiler's own report: which arrays a compiled program makes."""

import re

import jax


def arrays_made(compiled: jax.stages.Compiled, at_least: int) -> list[str]:
  """HLO instructions, parameters aside, whose result has `at_least` elements or more; tuples only pass arrays on."""
  made = []
  text = compiled.as_text()
  assert text is not None, "the compiler gives no text"
  for line in text.splitlines():
    found = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = (\w+)\[([\d,]*)\]\S* ([\w-]+)\(", line)
    if not found or found.group(4) in ("parameter", "get-tuple-element", "tuple", "while", "conditional"):
      continue
    size = 1
    for axis in filter(None, found.group(3).split(",")):
      size *= int(axis)
    if size >= at_least:
      made.append(line.strip())
  return made
