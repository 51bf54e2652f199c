"""Recorded results of the library, and tests that compute them again.

Goldens say that a change of structure changed no result. They do not say that a result is right: the other tests do,
by judges of their own. Everything here goes through the public interface (`lynx_jax`, `lynx_jax.evals`,
`lynx_jax.testing`, `pallas_kernels.gates`), so that a move inside the packages does not touch it.

    python -m tests.goldens --check            # computes everything again and names what differs
    python -m tests.goldens --write NAME ...   # records again: texts, routes, divergence, kernels

Recording again is right after a change that is meant to change a result: a fault mended in a family or a policy,
another tiny configuration, kernels that were cut anew, another version of jaxlib (`kernels` alone). Such a commit says
which entries changed and why. It is never right merely because a test fails.

`data/inputs.npz` holds what is fed: 64 rows of tokens that the embedded model wrote at temperature 1, router logits of
three layers of the embedded model in one decode step of 16 rows, and normal numbers of a fixed seed. It is not recorded
again.
"""
