"""Measures what weights of few bits cost on given text: perplexity, and divergence from the checkpoint's own weights.

    python -m benchmarks.claims.weights_perplexity --text .work/evaluation/text.jsonl --policy auto

Each form is measured with the model's own routing, and with each policy that is named, under which rows decode in
batches. The checkpoint's own weights under its own routing are what all are compared with, under teacher forcing.
Intervals come from resampling rows, or batches where a policy joins their rows.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32
from rich import box
from rich.console import Console
from rich.table import Table

import lynx_jax
from benchmarks.results import add_result_options, keep
from checkpoints_convert.files import write_json
from lynx_jax.evals.bootstrap import Interval, paired_ratio, ratio
from lynx_jax.evals.decoding import decoded_hidden, own_hidden, whole_rows
from lynx_jax.evals.mixes import cut, mixed
from lynx_jax.evals.text_files import read_texts, token_streams
from lynx_jax.models.params import Params
from lynx_jax.models.sizes import bytes_of
from lynx_jax.routing import RoutingPolicy

_ROWS = 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WeightsCost:
  """The cost of one form of a model's weights, compared with another form.

  Attributes:
    weight_bytes: size of the weights.
    tokens: how many were judged.
    cross_entropy: nats a token.
    perplexity: e to the cross-entropy.
    increase: relative increase of cross-entropy over the other form's.
    divergence: KL from the other form's distribution, nats a token.
    agreement: share of tokens whose most likely successor is the other form's.
  """

  weight_bytes: int
  tokens: int
  cross_entropy: Interval
  perplexity: Interval
  increase: Interval
  divergence: Interval
  agreement: Interval


@functools.partial(jax.jit, static_argnames="policy")
def _compare(
  params: Params, whole: Params, tokens: Int32[Array, "B L"], *, policy: RoutingPolicy | None
) -> tuple[Float32[Array, "B"], ...]:
  """Sums over each row: both cross-entropies, the divergence, and how often the most likely tokens agree."""
  targets, texts = tokens[:, 1:, None], whole_rows(tokens)
  hidden = own_hidden(params, texts) if policy is None else decoded_hidden(params, texts, policy)[0]
  both = (params.decoder.logits(hidden), whole.decoder.logits(own_hidden(whole, texts)))
  ours, own = map(jax.nn.log_softmax, both)
  ours_at, own_at = (-jnp.take_along_axis(log, targets, axis=-1)[..., 0] for log in (ours, own))
  divergence = jnp.sum(jnp.exp(own) * (own - ours), axis=-1)
  same = (ours.argmax(axis=-1) == own.argmax(axis=-1)).astype(jnp.float32)
  return tuple(of_token.sum(axis=1) for of_token in (ours_at, own_at, divergence, same))


def weights_cost(
  params: Params,
  whole: Params,
  rows: Int32[np.ndarray, "N L"],
  *,
  policy: RoutingPolicy | None = None,
  batch: int = _ROWS,
) -> WeightsCost:
  """Compares `params` with `whole`, the same model in other weights. Every token but each row's first is judged.

  Where there is a policy, every `batch` rows decode together under it; rows that do not fill a batch are left out.
  """
  rows = rows if policy is None else rows[: len(rows) // batch * batch]
  starts = range(0, len(rows), batch)
  parts = [jax.device_get(_compare(params, whole, jnp.asarray(rows[at : at + batch]), policy=policy)) for at in starts]
  # The rows of a batch are no independent samples.
  units = [tuple(sums if policy is None else sums.sum(keepdims=True) for sums in part) for part in parts]
  ours, own, divergence, same = (np.concatenate(sums) for sums in zip(*units, strict=True))
  judged = np.full(len(ours), float(rows.shape[1] - 1) * len(rows) / len(ours))
  entropy = ratio(ours, judged)
  return WeightsCost(
    weight_bytes=bytes_of(params),
    tokens=int(judged.sum()),
    cross_entropy=entropy,
    perplexity=Interval(value=np.exp(entropy.value), low=np.exp(entropy.low), high=np.exp(entropy.high)),
    increase=paired_ratio(ours, own),
    divergence=ratio(divergence, judged),
    agreement=ratio(same, judged),
  )


def table(costs: dict[str, WeightsCost]) -> Table:
  """The results as a Markdown table."""
  found = Table(title="What weights of few bits cost", box=box.MARKDOWN)
  for heading in ("weights", "MB", "tokens", "cross-entropy", "perplexity", "more", "KL, nats", "same top-1"):
    found.add_column(heading, no_wrap=True)
  for name, cost in costs.items():
    found.add_row(
      name, f"{cost.weight_bytes / 1e6:.1f}", f"{cost.tokens:,}", _span(cost.cross_entropy, ".4f"),
      _span(cost.perplexity, ".3f"), _span(cost.increase, "+.3%"), _span(cost.divergence, ".5f"),
      _span(cost.agreement, ".2%"),
    )  # fmt: skip
  return found


def _span(interval: Interval, form: str) -> str:
  return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", metavar="PATH", help="checkpoint directory; the embedded model by default")
  parser.add_argument("--dtype", help="of the weights to compare with, and of the activations; the checkpoint's own")
  parser.add_argument("--text", nargs="+", type=Path, required=True, metavar="FILE")
  parser.add_argument("--weights", default="int8,int4", help="forms, with commas (default: %(default)s)")
  parser.add_argument("--policy", action="append", default=[], help="measured under each form as well; repeatable")
  parser.add_argument("--batch", type=int, default=8, help="rows that decode together under a policy (default: 8)")
  parser.add_argument("--rows", type=int, default=256, metavar="N", help="rows of text, of all domains (default: 256)")
  parser.add_argument("--length", type=int, default=128, metavar="N", help="tokens a row (default: 128)")
  parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as an object")
  add_result_options(parser)
  args = parser.parse_args(argv)
  whole = lynx_jax.load(args.model, dtype=args.dtype)
  forms = {name: lynx_jax.load(args.model, dtype=args.dtype, weights=name) for name in args.weights.split(",")}
  policies = [lynx_jax.parse_policy(text) for text in args.policy]
  windows = cut(token_streams(whole, read_texts(args.text)), args.length)
  chosen = mixed(windows, 1, args.rows)
  if len(chosen) < args.rows:
    print(f"the text has {len(chosen)} rows of {args.length} tokens, fewer than {args.rows}", file=sys.stderr)
  rows = windows.tokens[np.concatenate(chosen)]
  own = whole.decoder.dtype.name
  costs = {}
  for name, params in {own: whole, **forms}.items():
    costs[name] = weights_cost(params, whole, rows)
    for policy in policies:
      told = f"{name}, {lynx_jax.format_policy(policy)} x{args.batch}"
      costs[told] = weights_cost(params, whole, rows, policy=policy, batch=args.batch)
  printed = table(costs)
  Console(width=220).print(printed)
  about = (
    "Perplexity and divergence of weights of few bits from the checkpoint's own, with 95 % intervals over rows of text."
  )
  keep(args, printed, argv, module="benchmarks.claims.weights_perplexity", name="weights_perplexity", about=about)
  if args.json:
    write_json(args.json, {name: dataclasses.asdict(cost) for name, cost in costs.items()})


if __name__ == "__main__":
  main()
