"""Llama 4 (text) with Lynx routing.

hf download meta-llama/Llama-4-Scout-17B-16E --local-dir MODEL
python -m examples.llama4_text MODEL
python -m examples.llama4_text --tiny          # random weights of the same form, no download
"""

from examples.family import compare

if __name__ == "__main__":
  compare("llama4_text", policy="lynx:alpha=1,beta=20")
