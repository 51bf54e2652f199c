"""Measurements of lynx_jax: programs that print what a machine does. Not part of the installed package."""
