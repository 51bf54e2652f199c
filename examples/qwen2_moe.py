"""Qwen2-MoE with Lynx routing.

hf download Qwen/Qwen1.5-MoE-A2.7B --local-dir MODEL
python -m examples.qwen2_moe MODEL
python -m examples.qwen2_moe --tiny          # random weights of the same form, no download
"""

from examples.family import compare

if __name__ == "__main__":
  compare("qwen2_moe", policy="lynx:alpha=3,beta=4")
