"""DeepSeek-V3 with Lynx routing.

hf download deepseek-ai/DeepSeek-V3 --local-dir MODEL
python -m examples.deepseek_v3 MODEL
python -m examples.deepseek_v3 --tiny          # random weights of the same form, no download
"""

from examples.family import compare

if __name__ == "__main__":
  compare("deepseek_v3", policy="auto")
