"""Measurements of the engine under load: what `lynx-jax bench engine` runs, one file for each."""
