"""gpt-oss with Lynx routing.

hf download openai/gpt-oss-20b --local-dir MODEL
python -m examples.gpt_oss MODEL
python -m examples.gpt_oss --tiny          # random weights of the same form, no download
"""

from examples.family import compare

if __name__ == "__main__":
  compare("gpt_oss", policy="lynx:alpha=3,beta=2")
