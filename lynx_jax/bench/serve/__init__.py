"""A load for an OpenAI server, ours or another, and what its clients see."""
