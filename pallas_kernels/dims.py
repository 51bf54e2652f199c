"""The letters that name array axes, here and in the shape comments of the whole project.

B rows of the batch      L positions of a row      T rows of a flat batch (B at decode, B*L at prefill)
D model width            V vocabulary              E experts             K experts that one token runs
F width of one expert    N query heads             G key/value heads     H width of one head
C positions that a KV cache has room for
MLA: W numbers cached a position, U width of a head's values
Paged caches: P blocks of a pool, 32 positions each, S slots, M blocks of a slot's table, Q tiles of queries

A suffix names the axes of a variable (`x_TD` is rows by model width), a jaxtyping string those of an
argument (`Float[Array, "T D"]`).
"""

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32

Array = jax.Array
ArrayLike = jax.Array | np.ndarray

TokenIds = Int32[Array, "B L"]
Lengths = Int32[Array, "B"]
Hidden = Float[Array, "B L D"]
Logits = Float32[Array, "B L V"]

RouterLogits = Float[Array, "T E"]
ExpertIds = Int32[Array, "T K"]
ExpertWeights = Float32[Array, "T K"]
ExpertMask = Bool[Array, "E"]
SelectionBias = Float32[Array, "E"]
RowMask = Bool[Array, "T"]
