"""Models for tests and measurements: tiny configurations of every family, random checkpoints and weights."""
