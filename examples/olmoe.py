"""OLMoE with Lynx routing.

hf download allenai/OLMoE-1B-7B-0924 --local-dir MODEL
python -m examples.olmoe MODEL
python -m examples.olmoe --tiny          # random weights of the same form, no download
"""

from examples.family import compare

if __name__ == "__main__":
  compare("olmoe", policy="lynx:alpha=3,beta=2")
