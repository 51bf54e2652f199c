"""Phi-3.5-MoE with Lynx routing.

hf download microsoft/Phi-3.5-MoE-instruct --local-dir MODEL
python -m examples.phimoe MODEL
python -m examples.phimoe --tiny          # random weights of the same form, no download
"""

from examples.family import compare

if __name__ == "__main__":
  compare("phimoe", policy="lynx:alpha=0.7,beta=1")
