"""DBRX with Lynx routing.

hf download databricks/dbrx-base --local-dir MODEL
python -m examples.dbrx MODEL
python -m examples.dbrx --tiny          # random weights of the same form, no download
"""

from examples.family import compare

if __name__ == "__main__":
  compare("dbrx", policy="lynx:alpha=1,beta=2")
