"""Granite MoE with Lynx routing.

hf download ibm-granite/granite-3.1-1b-a400m-base --local-dir MODEL
python -m examples.granitemoe MODEL
python -m examples.granitemoe --tiny          # random weights of the same form, no download
"""

from examples.family import compare

if __name__ == "__main__":
  compare("granitemoe", policy="lynx:alpha=3,beta=2")
