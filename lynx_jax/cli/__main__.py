"""`python -m lynx_jax.cli`."""

from lynx_jax.cli import main

main()
