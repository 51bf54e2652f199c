"""The roofline: sizes against published totals, parts against arithmetic by hand, errors beside measurements."""

import pytest

from lynx_jax.estimate.published import checks, size_of
from lynx_jax.estimate.roofline import (
  BANDWIDTH_SHARE,
  GPUS,
  MXFP4_EXPERTS,
  moe_layer_us,
  saving_line,
  step_size,
  step_time,
)
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.released import RELEASED
from lynx_jax.models.sizes import counts


@pytest.mark.parametrize("name", RELEASED)
def test_what_a_step_reads_adds_up_to_the_model(name):
  spec = spec_from_config(RELEASED[name])
  size, whole = step_size(spec), counts(spec)
  every_expert = size.moe_layers * size.experts * size.expert
  assert every_expert == whole.experts
  assert every_expert + size.always + size.head + whole.embedding == whole.total


def test_parts_of_a_step_are_bytes_over_bandwidth():
  size, gpu = size_of("Qwen3-30B-A3B"), GPUS["h100"]
  bandwidth = 3.352e12 * BANDWIDTH_SHARE
  time = step_time(size, gpu, active=40, batch=16, context=512)
  assert time.experts == pytest.approx(1e3 * 48 * 40 * 3 * 2048 * 768 * 2 / bandwidth)
  assert time.cache == pytest.approx(1e3 * 16 * 512 * 48 * 2 * 4 * 128 * 2 / bandwidth)
  assert time.collectives == 0
  half = step_time(size, gpu, active=20, batch=16, context=512)
  assert half.experts == pytest.approx(time.experts / 2)
  assert (half.weights, half.cache, half.launches) == (time.weights, time.cache, time.launches)
  two = step_time(size, gpu, active=40, batch=16, context=512, gpus=2)
  assert two.experts == pytest.approx(time.experts / 2)
  assert two.collectives > 96 * 0.01


def test_quantised_weights_are_read_as_the_bytes_that_they_are():
  spec, gpu = spec_from_config(RELEASED["Qwen3-30B-A3B"]), GPUS["h100"]
  whole, eight, four = (step_size(spec, weights) for weights in (None, "int8", "int4"))
  assert (whole.expert_item, whole.always_item, whole.head_item) == (2, 2, 2)
  # A scale of 16 bits for 32 numbers of 4; one of 32 bits for each of 2 * 768 + 2048 outputs.
  assert four.expert_item == pytest.approx(4.5 / 8)
  assert eight.expert * (eight.expert_item - 1) == pytest.approx(4 * (2 * 768 + 2048))
  assert eight.head_item == pytest.approx(1 + 4 / 2048)
  assert 1 < four.always_item == eight.always_item < 1.1
  times = [step_time(size, gpu, active=40, batch=8, context=512) for size in (whole, four)]
  assert times[1].experts == pytest.approx(times[0].experts * 4.5 / 16)
  assert times[1].cache == times[0].cache


def test_experts_of_four_bits_save_the_bytes_that_they_do_not_read():
  whole, packed = (step_size(spec_from_config(RELEASED["gpt-oss-20b"]), weights) for weights in (None, MXFP4_EXPERTS))
  assert packed.other_bytes == whole.other_bytes
  # 4 bits, and a byte for every 32 numbers; biases stay as they are.
  numbers, biases = 3 * 2880 * 2880, 3 * 2880
  assert packed.expert_bytes == numbers * 4.25 / 8 + 2 * biases
  line = saving_line(packed, whole, GPUS["h100"], active=4, batch=1, context=128)
  few, many = ((24 * 4 * one.expert_bytes + one.other_bytes) / 1e9 for one in (packed, whole))
  assert f"{few:.2f} GB a step for {many:.2f} in bfloat16" in line
  few, many = (float(part) for part in line.split("at most ")[1].rstrip(".").split(" tokens/s for "))
  assert 1 < few / many < 16 / 4.25


def test_many_rows_are_bound_by_arithmetic():
  size, gpu = size_of("Mixtral-8x7B"), GPUS["a100"]
  time = step_time(size, gpu, active=8, batch=4096, context=1)
  assert time.experts == pytest.approx(1e3 * 2 * 4096 * 2 * 32 * 3 * 4096 * 14336 / 312e12)


def test_experts_that_cannot_be_are_named():
  with pytest.raises(ValueError, match="active is 129: a batch reads between 8 and 128 experts a layer"):
    step_time(size_of("Qwen3-30B-A3B"), GPUS["h100"], active=129, batch=16, context=1)


def test_the_estimate_stands_beside_published_figures():
  found = checks()
  layers = [check for check in found if check.unit == "us"]
  assert len(layers) == 4
  assert all(abs(check.error) < 0.05 for check in layers)
  ratios = [check for check in found if check.unit == "x"]
  assert len(ratios) == 4
  assert all(check.estimate > 1 and abs(check.error) < 0.2 for check in ratios)


def test_a_layers_time_is_linear_in_its_experts():
  size, gpu = size_of("Qwen3-30B-A3B"), GPUS["h100"]
  times = [moe_layer_us(size, gpu, active=active, batch=16) for active in (16, 32, 48)]
  assert times[2] - times[1] == pytest.approx(times[1] - times[0])
