"""Compares prefill and decode with transformers: same weights, threads and tokens, in turns in one run.

    python -m lynx_jax.testing.random_checkpoint .work/905m
    python -m benchmarks.against_transformers .work/905m --batch 1,4,8,16,32 --policy topk --policy auto

transformers (the extra `test` installs it with torch) runs its grouped products
(`experts_implementation="grouped_mm"`) and its dynamic cache. Both read the same prompts, are fed the same random
tokens, and take the largest logit. A speed-up is the median of transformers' times divided by the median of ours. The
table also has the time that plain reading of a step's weights takes, measured right before and after each decode, and
the speed-up of a step that would take no longer than that.
"""

import argparse
import dataclasses
import functools
import importlib
import inspect
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import lynx_jax
from benchmarks.results import add_result_options, keep
from checkpoints_convert.files import write_json
from lynx_jax.bench.fed_decode import FedDecode
from lynx_jax.bench.plain_reading import bytes_a_step, plain_reading
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy, format_policy, parse_policy
from pallas_kernels.cpu import threads_used


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
  """One batch size under one policy.

  Attributes:
    policy: ours, as text; transformers runs the model's own routing.
    batch: rows.
    prefill_ms: ours, of all prompts.
    their_prefill_ms: transformers'.
    step_ms: a decode step of ours.
    their_step_ms: of transformers.
    reading_ms: time to read a step's weights once, at the speed of plain reading on the same threads; None where there
      is no native code to measure it.
    logits_differ: the largest difference of the first decoded logits under the model's own routing, as a share of the
      largest logit; None under other policies.
  """

  policy: str
  batch: int
  prefill_ms: float
  their_prefill_ms: float
  step_ms: float
  their_step_ms: float
  reading_ms: float | None
  logits_differ: float | None


class Transformers:
  """transformers' model of a directory, timed as ours is."""

  def __init__(self, path: Path, threads: int) -> None:
    self._torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    self._torch.set_num_threads(threads)
    self._model = transformers.AutoModelForCausalLM.from_pretrained(
      path, dtype="auto", experts_implementation="grouped_mm", attn_implementation="sdpa"
    ).eval()
    self._empty_cache = functools.partial(transformers.DynamicCache, config=self._model.config)
    # Its name until late in transformers 5 was `past_key_values`.
    named = inspect.signature(self._model.forward).parameters
    self._cache_name = "cache" if "cache" in named else "past_key_values"

  def run(self, prompts: np.ndarray, fed: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Seconds to read the prompts, seconds to decode every fed token [S, B], and the first decoded logits [B, V]."""
    torch = self._torch
    ids, steps = torch.tensor(prompts), torch.tensor(fed)[..., None]
    first, cache = None, {self._cache_name: self._empty_cache()}
    with torch.inference_mode():
      begin = time.perf_counter()
      # The last position alone meets the head, as in ours.
      read = self._model(ids, use_cache=True, logits_to_keep=1, **cache)
      read.logits[:, -1].argmax(-1)
      middle = time.perf_counter()
      for token in steps:
        read = self._model(token, use_cache=True, **cache)
        read.logits[:, -1].argmax(-1)
        first = read.logits[:, -1] if first is None else first
      end = time.perf_counter()
    assert first is not None
    return middle - begin, end - middle, first.float().numpy()


def compare(
  params: Params,
  theirs: Transformers,
  batches: Sequence[int],
  policies: Sequence[RoutingPolicy],
  *,
  length: int = 32,
  steps: int = 32,
  repeats: int = 5,
  progress: Callable[[str], None] = lambda message: None,
) -> Iterator[Comparison]:
  """Times transformers and every policy in turns; yields a batch size's comparisons when it is done.

  Args:
    params: our model.
    theirs: transformers' of the same weights.
    batches: numbers of rows.
    policies: of ours.
    length: tokens of each prompt.
    steps: decode steps a repeat.
    repeats: of everything; times are medians over them.
    progress: called with a line on what is being measured.
  """
  for batch in batches:
    runs = {policy: FedDecode(params, batch, policy, length=length, steps=steps) for policy in policies}
    example = next(iter(runs.values()))
    prompts, fed = np.asarray(example.prompts), np.asarray(example.fed)
    progress(f"batch {batch}: compiling")
    read = {policy: bytes_a_step(params, run.warm_up()) for policy, run in runs.items()}
    _, _, logits = theirs.run(prompts, fed[:1])
    differ = _difference(params, prompts, fed[0], logits)
    taken: dict[Any, list[tuple[float, float]]] = {key: [] for key in (None, *policies)}
    speeds: dict[RoutingPolicy, list[float]] = {policy: [] for policy in policies}
    for repeat in range(repeats):
      progress(f"batch {batch}: repeat {repeat + 1} of {repeats}")
      taken[None].append(theirs.run(prompts, fed)[:2])
      for policy, run in runs.items():
        prefill, before = run.prefill_seconds(), plain_reading()
        taken[policy].append((prefill, run.seconds()))
        after = plain_reading()
        speeds[policy] += [(before + after) / 2] if before and after else []
    median = {key: [statistics.median(part) * 1e3 for part in zip(*times, strict=True)] for key, times in taken.items()}
    for policy in policies:
      yield Comparison(
        policy=format_policy(policy),
        batch=batch,
        prefill_ms=median[policy][0],
        their_prefill_ms=median[None][0],
        step_ms=median[policy][1] / steps,
        their_step_ms=median[None][1] / steps,
        reading_ms=1e3 * read[policy] / statistics.median(speeds[policy]) if speeds[policy] else None,
        logits_differ=differ if policy == lynx_jax.TopK() else None,
      )


def _difference(params: Params, prompts: np.ndarray, token: np.ndarray, theirs: np.ndarray) -> float:
  rows, length = prompts.shape
  state = lynx_jax.prefill(params, prompts, jnp.full((rows,), length, jnp.int32), length + 16)
  ours, _ = lynx_jax.next_logits(params, dataclasses.replace(state, token=jnp.asarray(token)))
  return float(np.abs(np.asarray(ours, np.float32) - theirs).max() / np.abs(theirs).max())


def comparison_table(rows: Sequence[Comparison]) -> Table:
  """One line a batch size and policy."""
  table = Table(title=f"transformers and lynx_jax on the same {threads_used()} threads; medians")
  table.add_column("policy", no_wrap=True)
  compared = ("prefill ms", "theirs", "speed-up", "step ms", "theirs", "speed-up")
  for heading in ("batch", *compared, "reading ms", "at most", "logits differ"):
    table.add_column(heading, justify="right", no_wrap=heading == "speed-up")
  for row in rows:
    prefill, step = row.their_prefill_ms / row.prefill_ms, row.their_step_ms / row.step_ms
    reading = ("", "")
    if row.reading_ms is not None:
      reading = (f"{row.reading_ms:.2f}", f"{row.their_step_ms / row.reading_ms:.2f}x")
    table.add_row(
      row.policy, str(row.batch), f"{row.prefill_ms:.0f}", f"{row.their_prefill_ms:.0f}", f"{prefill:.2f}x",
      f"{row.step_ms:.2f}", f"{row.their_step_ms:.2f}", f"{step:.2f}x", *reading,
      "" if row.logits_differ is None else f"{row.logits_differ:.2%}",
    )  # fmt: skip
  return table


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("model", type=Path, help="a Hugging Face directory")
  parser.add_argument("--batch", default="1,4,8,16,32", help="batch sizes (default: %(default)s)")
  parser.add_argument("--policy", action="append", help="of ours; several times for several (default: topk)")
  whole = functools.partial(parser.add_argument, type=int)
  whole("--prompt-length", default=32, help="tokens (default: %(default)s)")
  whole("--steps", default=32, help="decode steps a repeat (default: %(default)s)")
  whole("--repeats", default=5, help="(default: %(default)s)")
  parser.add_argument("--json", type=Path, help="write the rows there")
  add_result_options(parser)
  args = parser.parse_args(argv)
  err = Console(stderr=True)
  try:
    batches = [int(one) for one in args.batch.split(",")]
    policies = [parse_policy(text) for text in args.policy or ["topk"]]
    params = lynx_jax.load(args.model)
    sizes = {"length": args.prompt_length, "steps": args.steps, "repeats": args.repeats}
    theirs = Transformers(args.model, threads_used())
    rows = []
    for row in compare(params, theirs, batches, policies, **sizes, progress=err.print):
      rows.append(row)
      err.print(f"batch {row.batch}, {row.policy}: {row.step_ms:.1f} ms a step, theirs {row.their_step_ms:.1f}")
  except (ValueError, OSError, ImportError) as error:
    err.print(f"error: {error}")
    return 2
  if args.json:
    write_json(args.json, [dataclasses.asdict(row) for row in rows])
  table = comparison_table(rows)
  Console(width=124).print(table)
  about = (
    "transformers runs the same weights and tokens with grouped products, in turns with ours. *Reading* is the time "
    "that plain reading of a step's weights takes, and *at most* the speed-up of a step that would take no longer."
  )
  keep(args, table, argv, module="benchmarks.against_transformers", name="against_transformers", about=about)
  print(json.dumps({"jax": jax.__version__, "threads": threads_used()}))
  return 0


if __name__ == "__main__":
  sys.exit(main())
