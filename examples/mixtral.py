"""Mixtral with Lynx routing.

hf download mistralai/Mixtral-8x7B-v0.1 --local-dir MODEL
python -m examples.mixtral MODEL
python -m examples.mixtral --tiny          # random weights of the same form, no download
"""

from examples.family import compare

if __name__ == "__main__":
  compare("mixtral", policy="lynx:alpha=0.7,beta=1")
