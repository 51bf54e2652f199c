"""What the README may be: short, with few numbers, and with links that lead somewhere.

The rule: outside of code blocks (fenced or indented by four spaces), at most 900 words and 40 numerals. Link targets
do not count. A word is a run of characters between spaces that holds a letter or a digit. A numeral is a run of digits
with its points and commas that does not continue a name: 1,133 is one, AVX-512 is one, V3, fp8 and int8 are none.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_WORDS, MOST_NUMERALS = 900, 40


def prose(text):
  """Markdown without code blocks and link targets."""
  text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
  text = re.sub(r"^ {4,}\S.*$", "", text, flags=re.MULTILINE)
  return re.sub(r"\]\([^)]*\)", "]", text)


def words(text):
  return [word for word in text.split() if re.search(r"\w", word)]


def numerals(text):
  return re.findall(r"(?<![A-Za-z\d.])\d[\d.,]*", text)


def test_what_counts():
  text = "One 1,133 V3 int8 AVX-512 [link 2](a/3)\n\n    4 in code\n\n```\n5\n```\n| 6 | - |\n"
  assert numerals(prose(text)) == ["1,133", "512", "2", "6"]
  assert words(prose(text)) == ["One", "1,133", "V3", "int8", "AVX-512", "[link", "2]", "6"]


def test_the_readme_is_short_and_has_few_numbers():
  assert len(words(prose(README))) <= MOST_WORDS
  assert len(numerals(prose(README))) <= MOST_NUMERALS


def test_its_links_lead_to_files():
  targets = re.findall(r"\]\(([^)#]+)", README)
  local = [target for target in targets if "://" not in target]
  assert local
  missing = [target for target in local if not (ROOT / target).exists()]
  assert missing == []
