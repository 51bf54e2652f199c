"""What the engine decides on the host: who runs, where its cache lies, what it is told. Plain Python, without JAX."""
