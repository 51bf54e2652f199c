"""DeepSeek-V2: latent attention, whose cache holds one latent for all heads, and shared experts.

hf download deepseek-ai/DeepSeek-V2-Lite --local-dir MODEL
python -m examples.deepseek_v2 MODEL
python -m examples.deepseek_v2 --tiny          # random weights of the same form, no download
"""

from collections.abc import Iterator

import lynx_jax
from examples.family import compare, router_line


def particular(params: lynx_jax.Params) -> Iterator[str]:
  """The latent cache beside the heads that it replaces, and the router."""
  layer, moe = params.spec.layers[-1], params.spec.moe_specs[0]
  attention = layer.attention
  assert isinstance(attention, lynx_jax.MLASpec)
  latent = attention.rank + attention.rope_width
  heads = attention.heads * (attention.key_width + attention.rope_width + attention.value_width)
  yield f"a cached position is {latent} numbers a layer, where the {attention.heads} heads' keys and values are {heads}"
  yield router_line(params)
  assert moe.shared is not None
  yield f"shared experts of width {moe.shared.width} run beside the routed ones"


if __name__ == "__main__":
  compare("deepseek_v2", policy="lynx:alpha=1.125,beta=2", particular=particular)
