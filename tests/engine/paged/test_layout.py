"""Arrays that travel as one: what goes in comes out, bit for bit, on either side."""

import jax
import jax.numpy as jnp
import numpy as np

from lynx_jax.engine.paged.layout import Layout

LAYOUT = Layout([("ids", (3,), "int"), ("none", (0, 4), "float"), ("share", (2, 2), "float"), ("on", (), "flag")])


def test_what_the_host_fills_in_the_program_reads():
  packed = np.zeros(LAYOUT.size, np.int32)
  views = LAYOUT.views(packed)
  views["ids"][...] = [1, -2, 3]
  views["share"][...] = [[0.1, -np.inf], [np.nan, 1e-45]]
  views["on"][...] = 1
  parts = jax.jit(LAYOUT.unpack)(packed)
  np.testing.assert_array_equal(parts["ids"], [1, -2, 3])
  np.testing.assert_array_equal(np.asarray(parts["share"]).view(np.int32), views["share"].view(np.int32))
  assert parts["on"].dtype == bool
  assert parts["on"]


def test_what_the_program_packs_the_host_reads():
  parts = {
    "ids": jnp.arange(3, dtype=jnp.int32),
    "none": jnp.zeros((0, 4), jnp.float32),
    "share": jnp.asarray([[0.5, jnp.inf], [-0.0, 2.0]], jnp.float32),
    "on": jnp.asarray(True),
  }
  views = LAYOUT.views(np.asarray(jax.jit(LAYOUT.pack)(parts)))
  for name, part in parts.items():
    np.testing.assert_array_equal(views[name], part)
  assert np.signbit(views["share"][1, 0])
