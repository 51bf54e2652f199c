"""Measurements of kernels: what the compilers report, how fast they run, and which block sizes are best."""
