"""Qwen3-MoE with Lynx routing.

hf download Qwen/Qwen3-30B-A3B --local-dir MODEL
python -m examples.qwen3_moe MODEL
python -m examples.qwen3_moe --tiny          # random weights of the same form, no download
"""

from examples.family import compare

if __name__ == "__main__":
  compare("qwen3_moe", policy="lynx:alpha=3,beta=2")
