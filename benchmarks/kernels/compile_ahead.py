"""Compiles the decodes of a benchmark side by side before the first is run."""

import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lynx_jax.bench.fed_decode import FedDecode
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy


def compile_ahead(
  params: Params, batches: Sequence[int], policies: Sequence[RoutingPolicy], *, length: int, steps: int
) -> None:
  """Compiles what `FedDecode` runs for every batch and policy; it finds the programs later."""

  def compile_one(decode: tuple[int, RoutingPolicy, bool]) -> None:
    batch, policy, counted = decode
    FedDecode(params, batch, policy, length=length, steps=steps).compile(collect_totals=counted)

  with ThreadPoolExecutor(os.cpu_count()) as threads:
    list(threads.map(compile_one, itertools.product(batches, policies, (True, False))))
