"""Products on a CPU: how fast weights of each kind stream through the processor."""
