"""Granite MoE: multipliers on the embedding, the attention scores, every residual and the logits.

hf download ibm-granite/granite-3.1-1b-a400m-base --local-dir MODEL
python -m examples.granitemoe MODEL
python -m examples.granitemoe --tiny          # random weights of the same form, no download
"""

from collections.abc import Iterator

import lynx_jax
from examples.family import attention_spec, compare, router_line


def particular(params: lynx_jax.Params) -> Iterator[str]:
  """The four multipliers, and the router's weights."""
  spec = params.spec
  yield router_line(params)
  yield f"embeddings are multiplied by {spec.embedding_multiplier:g}, residuals by {spec.residual_multiplier:g}"
  scale = attention_spec(params).scale
  yield f"attention scores are multiplied by {scale:g}, logits divided by {spec.logits_divisor:g}"


if __name__ == "__main__":
  compare("granitemoe", policy="lynx:alpha=3,beta=2", particular=particular)
