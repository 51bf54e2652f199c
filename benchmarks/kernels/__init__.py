"""Kernels: what the compiler makes of them, how fast they run, how their blocks are cut."""
