"""A dense llama cut into experts, with Auto routing.

make moefy                                    # cuts SmolLM2-135M into .work/smollm2_moe
python -m examples.moefied_llama .work/smollm2_moe
python -m examples.moefied_llama --tiny       # random weights of the same form, no download
"""

from examples.family import compare

if __name__ == "__main__":
  compare("moefied_llama", policy="auto")
