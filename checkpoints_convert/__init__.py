"""Weights from elsewhere: reads checkpoints of every family, and converts directories there and back."""
