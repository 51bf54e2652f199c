"""When a model runs, and for whom: prefill, decode steps, sampling, the state between them."""
