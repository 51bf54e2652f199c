"""The pieces under `generate`, in your own jitted program: prefill, then a decode loop with a policy.

python -m examples.jit_decode [--model PATH]
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import lynx_jax


def main() -> None:
  """Decodes two prompts under the model's own routing and under Lynx, and prints both."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", help="checkpoint directory with a tokenizer; the embedded model by default")
  args = parser.parse_args()
  params = lynx_jax.load(args.model)
  assert params.tokenizer is not None

  prompts = [params.tokenizer.encode(text) for text in ("The man is standing", "A woman walks into the room and")]
  lengths = np.array([len(prompt) for prompt in prompts], np.int32)
  tokens = np.zeros((len(prompts), lengths.max()), np.int32)
  for row, prompt in zip(tokens, prompts, strict=True):
    row[: len(prompt)] = prompt

  # `capacity` and `policy` are static; everything else is data, so neither program is compiled twice.
  prefill = jax.jit(lynx_jax.prefill, static_argnames="capacity")
  # With these options an NVIDIA GPU runs the whole loop as one CUDA graph; elsewhere they change nothing.
  options = lynx_jax.graph_options()
  decode_loop = jax.jit(
    lynx_jax.decode_loop, static_argnames="policy", donate_argnames="state", compiler_options=options
  )
  requests = lynx_jax.greedy_requests(len(prompts), max_new_tokens=24, stop_ids=params.spec.stop_ids)
  for policy in (lynx_jax.TopK(), lynx_jax.Lynx(alpha=1, beta=2)):
    state = prefill(params, tokens, lengths, 64, requests)
    state = decode_loop(params, state, policy=policy, max_steps=jnp.int32(24))
    print(lynx_jax.format_policy(policy))
    for prompt, output, count in zip(prompts, state.output, state.generated, strict=True):
      print("  " + params.tokenizer.decode(prompt + output[:count].tolist()).replace("\n", " "))


if __name__ == "__main__":
  main()
