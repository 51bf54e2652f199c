"""Which layout a backend reads: the same numbers wherever they lie."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.placement import Role, form_for, place, read_here
from pallas_kernels import INT4, INT8, MXFP4, Form, dequantize, quantize
from pallas_kernels.weights.base import form_of


@pytest.mark.parametrize(
  ("backend", "form", "layout"),
  [
    ("gpu", INT8, "tiles"),
    ("gpu", MXFP4, "tiles"),
    ("gpu", Form(code="e2m1", group=16), "rows"),
    ("cpu", INT8, "rows"),
    ("cpu", INT4, "interleaved"),
    ("cpu", MXFP4, "rows"),
    ("tpu", INT4, "rows"),
  ],
)
def test_each_backend_reads_its_own_layout(monkeypatch, backend, form, layout):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  assert read_here(form) == dataclasses.replace(form, layout=layout)


@pytest.mark.parametrize("zeros", [False, True])
def test_what_files_hold_lies_in_tiles_on_a_gpu(monkeypatch, zeros):
  random = np.random.default_rng(0)
  stored = quantize(random.normal(size=(3, 20, 70)).astype(jnp.bfloat16), INT4)
  if zeros:
    stored = dataclasses.replace(stored, zeros=random.integers(0, 16, stored.scales.shape).astype(np.uint8))
  numbers = np.asarray(dequantize(stored))
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  placed = place(stored, Role.EXPERT)
  assert form_of(placed) == form_for(Role.EXPERT, "int4")
  np.testing.assert_array_equal(dequantize(placed), numbers)
