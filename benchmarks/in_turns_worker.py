"""One process of `benchmarks.in_turns`: loads a model with whichever checkout PYTHONPATH names, times decode steps.

It uses the public interface alone, so that it runs with older checkouts than its own.

Reads a batch size a line, and answers each with a line of JSON. The first line, unasked, says that everything is
compiled, and which package and native library run.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lynx_jax

PROMPT = 32


class Decode:
  """Decode steps over fixed tokens from a fixed state of `batch` rows."""

  def __init__(self, params: Any, batch: int, steps: int, policy: str):
    """Prefills and compiles."""
    random = np.random.default_rng(batch)
    vocab = params.spec.vocab
    prompts = random.integers(vocab, size=(batch, PROMPT)).astype(np.int32)
    fed = jnp.asarray(random.integers(vocab, size=(steps, batch)), jnp.int32)
    rule, capacity = lynx_jax.parse_policy(policy), PROMPT + steps + 16

    def run(params: Any, state: Any) -> Any:
      def step(index: jax.Array, state: Any) -> Any:
        return lynx_jax.decode_step(params, dataclasses.replace(state, token=fed[index]), policy=rule)

      return jax.lax.fori_loop(0, steps, step, state)

    prefill = jax.jit(lynx_jax.prefill, static_argnames="capacity")
    requests = lynx_jax.greedy_requests(batch, capacity)
    lengths = np.full((batch,), PROMPT, np.int32)
    self.params, self.steps = params, steps
    self.start = jax.block_until_ready(prefill(params, prompts, lengths, capacity, requests))
    self.run = jax.jit(run, donate_argnums=1)
    self.seconds()

  def seconds(self) -> float:
    """Time of a step, as a mean over the stretch."""
    state = jax.block_until_ready(jax.tree.map(jnp.copy, self.start))
    begin = time.perf_counter()
    jax.block_until_ready(self.run(self.params, state))
    return (time.perf_counter() - begin) / self.steps


def native_library() -> str | None:
  """Path of the native library that this process has mapped, whatever module loaded it."""
  maps = Path("/proc/self/maps")
  lines = maps.read_text().splitlines() if maps.exists() else []
  return next((line.split(maxsplit=5)[-1] for line in lines if line.endswith("liblynx.so")), None)


def main() -> None:
  """Loads, compiles, and answers until its input ends."""
  settings = json.loads(sys.argv[1])
  params = lynx_jax.load(settings["model"])
  decodes = {batch: Decode(params, batch, settings["steps"], settings["policy"]) for batch in settings["batches"]}
  print(json.dumps({"package": lynx_jax.__file__, "library": native_library()}), flush=True)
  for line in sys.stdin:
    print(json.dumps({"seconds": decodes[int(line)].seconds()}), flush=True)


if __name__ == "__main__":
  main()
