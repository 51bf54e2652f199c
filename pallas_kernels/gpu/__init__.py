"""What kernels for NVIDIA GPUs share: launches, block sizes, CUDA graphs."""
