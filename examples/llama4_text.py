"""Llama 4 (text): one routed expert a token beside a shared one, and layers with chunked attention.

    hf download meta-llama/Llama-4-Scout-17B-16E --local-dir MODEL
    python -m examples.llama4_text MODEL
    python -m examples.llama4_text --tiny          # random weights of the same form, no download

Where a token runs one expert, moving it replaces all that routing gives the token. `auto` asks that price: it gives up
an expert only where so few rows want it that moving them costs less than half of what an expert is worth. The knobs
that the Lynx paper gives for Llama 4 (`lynx:alpha=1,beta=none`) rank by the batch's votes alone: with one expert a
token they send all rows to one expert.
"""

from collections.abc import Iterator

import lynx_jax
from examples.family import attention_spec, compare, weights_line


def particular(params: lynx_jax.Params) -> Iterator[str]:
  """The top-1 router, the shared expert, and which layers have chunks and positions."""
  moe, layers = params.spec.moe_specs[0], params.spec.layers
  assert moe.shared is not None
  yield f"a token runs one routed expert, whose sigmoid scales the expert's input: {weights_line(params)}"
  yield f"and a shared network of width {moe.shared.width}, which every step reads"
  first = [attention_spec(params, index) for index in range(min(4, len(layers)))]
  kinds = ["no positions" if spec.rope is None else f"chunks of {spec.chunk}" for spec in first]
  yield f"attention of the first layers: {', '.join(kinds)}"


if __name__ == "__main__":
  compare("llama4_text", policy="auto", particular=particular)
