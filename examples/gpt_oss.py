"""gpt-oss: windows in every other layer, attention sinks, biased experts with a clamped activation.

    hf download openai/gpt-oss-20b --local-dir MODEL
    python -m examples.gpt_oss MODEL
    python -m examples.gpt_oss --tiny          # random weights of the same form, no download

The released files are MXFP4; `load` widens them to bfloat16, or to int8 with `weights="int8"`.
"""

from collections.abc import Iterator

import lynx_jax
from examples.family import attention_spec, compare, router_line
from lynx_jax.models.attention import Attention


def particular(params: lynx_jax.Params) -> Iterator[str]:
  """Windows, sinks and biases."""
  windows = [attention_spec(params, index).window for index in range(min(6, len(params.spec.layers)))]
  yield f"windows by layer: {', '.join('all' if window is None else str(window) for window in windows)}"
  attention = params.decoder.layers[0].attention
  assert isinstance(attention, Attention)
  assert attention.sinks is not None
  sinks = [f"{logit:.2f}" for logit in attention.sinks[...].tolist()[:4]]
  yield f"each head has a learned sink, a logit that takes attention away from the text: {', '.join(sinks)} in layer 0"
  yield router_line(params)


if __name__ == "__main__":
  compare("gpt_oss", policy="lynx:alpha=3,beta=2", particular=particular)
