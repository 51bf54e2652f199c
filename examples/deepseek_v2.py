"""DeepSeek-V2-Lite with Lynx routing.

hf download deepseek-ai/DeepSeek-V2-Lite --local-dir MODEL
python -m examples.deepseek_v2 MODEL
python -m examples.deepseek_v2 --tiny          # random weights of the same form, no download
"""

from examples.family import compare

if __name__ == "__main__":
  compare("deepseek_v2", policy="lynx:alpha=1.125,beta=2")
