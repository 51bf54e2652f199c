"""The compiled steps of the engine: many sequences at once over a paged cache, shapes fixed ahead of time."""
